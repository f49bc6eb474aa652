/* A stand-in for AMD's libamd_smi.so: GPUs as the file $AMDSMI_STUB_STATE says, so that the real amdsmi runs without one.

   A line per GPU: DOMAIN:BUS:DEVICE.FUNCTION COUNT RESOLUTION_UJ STATUS HANG_S, e.g. 0000:c1:00.0 65536 15.3 0 0.
   Every other symbol that the module binds is made by build.py and answers "not supported". */

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

enum { SUCCESS = 0, MOST = 16 };

static struct gpu {
    unsigned domain, bus, device, function;
    uint64_t count;
    float resolution_uj;
    uint32_t status;
    double hang_s;
} gpus[MOST];
static uint32_t found;

static void look(void)
{
    const char *path = getenv("AMDSMI_STUB_STATE");
    FILE *file = path ? fopen(path, "r") : NULL;

    found = 0;
    while (file && found < MOST) {
        struct gpu *g = &gpus[found];
        if (fscanf(file, "%x:%x:%x.%x %" SCNu64 " %f %" SCNu32 " %lf", &g->domain, &g->bus, &g->device, &g->function,
                   &g->count, &g->resolution_uj, &g->status, &g->hang_s) != 8)
            break;
        found++;
    }
    if (file)
        fclose(file);
}

uint32_t amdsmi_init(uint64_t flags)
{
    (void)flags;
    look();
    return SUCCESS;
}

/* One socket for all of them: the module asks for each socket's processors. */
uint32_t amdsmi_get_socket_handles(uint32_t *count, void **handles)
{
    *count = 1;
    if (handles)
        handles[0] = &found;
    return SUCCESS;
}

uint32_t amdsmi_get_processor_handles(void *socket, uint32_t *count, void **handles)
{
    (void)socket;
    *count = found;
    for (uint32_t i = 0; handles && i < found; i++)
        handles[i] = &gpus[i];
    return SUCCESS;
}

uint32_t amdsmi_get_gpu_device_bdf(void *handle, uint64_t *bdf)
{
    const struct gpu *g = handle;

    *bdf = g->function | (uint64_t)g->device << 3 | (uint64_t)g->bus << 8 | (uint64_t)g->domain << 16;
    return SUCCESS;
}

uint32_t amdsmi_get_energy_count(void *handle, uint64_t *count, float *resolution_uj, uint64_t *at_ns)
{
    const struct gpu *g = handle;

    look();
    if (g->hang_s > 0)
        usleep((useconds_t)(g->hang_s * 1e6));
    *count = g->count;
    *resolution_uj = g->resolution_uj;
    *at_ns = 0;
    return g->status;
}
