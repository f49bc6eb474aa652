/* A libnvidia-ml.so.1 without a driver: answers NVIDIA's own header from a small text file, read anew at each call.
 *
 * $NVML_STUB_STATE names the file. Lines, in any order; `gpu` begins the next GPU:
 *   driver VERSION
 *   hang_s N                   nvmlInit takes this long
 *   error FUNCTION CODE        the function returns this nvmlReturn_t
 *   gpu
 *   uuid U / pci DOMAIN:BUS:DEVICE.0 / name N (to the end of the line) / minor N / arch N
 *   energy_mj N                counter; absent: the GPU has none (NVML_ERROR_NOT_SUPPORTED)
 *   power_mw N                 gauge; absent: it has none
 *   since_ns N                 the counter grows by power_mw since this moment of CLOCK_BOOTTIME; absent: it stands
 *   limit_mw N / max_limit_mw N / util N
 *   lost 1                     every call on this GPU says NVML_ERROR_GPU_IS_LOST
 *   hang_s N                   every call on this GPU takes this long
 *   mig GI CI SLICES UUID      an instance of so many compute slices
 *   gpm GI PERCENT             GPM tells how busy the multiprocessors of this GPU instance are; no such line: no GPM
 *   process PID SM             a process and its share of the multiprocessors, in percent
 * Built by tests/stubs/nvml/build.py with the header of the package nvidia-nvml-dev-cu12. */
#include <nvml.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define MOST 16
#define EXPORT __attribute__((visibility("default")))
#define ABSENT (~1ULL) /* all ones is a blank value that a test may script */

struct slice { unsigned gi, ci, slices; char uuid[96]; };
struct process { unsigned pid, sm; };
struct busy { unsigned gi; double percent; };
struct nvmlGpmSample_st { double percent; };
struct gpu {
  char uuid[96], pci[32], name[96];
  unsigned minor, arch, util, slices, processes, busies;
  unsigned long long energy_mj, power_mw, since_ns, limit_mw, max_limit_mw;
  double hang_s;
  int lost;
  struct slice slice[MOST];
  struct process process[MOST];
  struct busy busy[MOST];
};
struct state {
  char driver[80];
  double hang_s;
  unsigned gpus, errors;
  struct gpu gpu[MOST];
  struct { char name[80]; int code; } error[MOST];
};

/* Handles are tags, not pointers to state: the state is read anew at each call. */
static char gpu_tag[MOST], slice_tag[MOST][MOST];
static int started;

static int load(struct state *s) {
  const char *path = getenv("NVML_STUB_STATE");
  FILE *file = path ? fopen(path, "r") : NULL;
  char line[256], key[32], rest[200];
  struct gpu *g = NULL;
  memset(s, 0, sizeof *s);
  if (!file) return 0;
  while (fgets(line, sizeof line, file)) {
    rest[0] = 0;
    if (sscanf(line, "%31s %199[^\n]", key, rest) < 1 || key[0] == '#') continue;
    if (!strcmp(key, "gpu")) {
      if (s->gpus == MOST) break;
      g = &s->gpu[s->gpus++];
      g->energy_mj = g->power_mw = g->since_ns = ABSENT;
      g->limit_mw = g->max_limit_mw = ABSENT;
      g->minor = s->gpus - 1;
      g->arch = NVML_DEVICE_ARCH_AMPERE;
    } else if (!strcmp(key, "driver")) snprintf(s->driver, sizeof s->driver, "%.79s", rest);
    else if (!strcmp(key, "error") && s->errors < MOST) {
      sscanf(rest, "%79s %d", s->error[s->errors].name, &s->error[s->errors].code);
      s->errors++;
    } else if (!strcmp(key, "hang_s")) *(g ? &g->hang_s : &s->hang_s) = atof(rest);
    else if (!g) continue;
    else if (!strcmp(key, "uuid")) snprintf(g->uuid, sizeof g->uuid, "%.95s", rest);
    else if (!strcmp(key, "pci")) snprintf(g->pci, sizeof g->pci, "%.31s", rest);
    else if (!strcmp(key, "name")) snprintf(g->name, sizeof g->name, "%.95s", rest);
    else if (!strcmp(key, "minor")) g->minor = (unsigned)atoi(rest);
    else if (!strcmp(key, "arch")) g->arch = (unsigned)atoi(rest);
    else if (!strcmp(key, "energy_mj")) g->energy_mj = strtoull(rest, NULL, 0);
    else if (!strcmp(key, "power_mw")) g->power_mw = strtoull(rest, NULL, 0);
    else if (!strcmp(key, "since_ns")) g->since_ns = strtoull(rest, NULL, 0);
    else if (!strcmp(key, "limit_mw")) g->limit_mw = strtoull(rest, NULL, 0);
    else if (!strcmp(key, "max_limit_mw")) g->max_limit_mw = strtoull(rest, NULL, 0);
    else if (!strcmp(key, "util")) g->util = (unsigned)atoi(rest);
    else if (!strcmp(key, "lost")) g->lost = atoi(rest);
    else if (!strcmp(key, "mig") && g->slices < MOST) {
      struct slice *i = &g->slice[g->slices++];
      sscanf(rest, "%u %u %u %95s", &i->gi, &i->ci, &i->slices, i->uuid);
    } else if (!strcmp(key, "gpm") && g->busies < MOST) {
      struct busy *b = &g->busy[g->busies++];
      sscanf(rest, "%u %lf", &b->gi, &b->percent);
    } else if (!strcmp(key, "process") && g->processes < MOST) {
      struct process *p = &g->process[g->processes++];
      sscanf(rest, "%u %u", &p->pid, &p->sm);
    }
  }
  fclose(file);
  return 1;
}

static void pass(double seconds) {
  struct timespec t = {(time_t)seconds, (long)((seconds - (time_t)seconds) * 1e9)};
  if (seconds > 0) nanosleep(&t, NULL);
}

static nvmlReturn_t scripted(const struct state *s, const char *name) {
  for (unsigned i = 0; i < s->errors; i++)
    if (!strcmp(s->error[i].name, name)) return (nvmlReturn_t)s->error[i].code;
  return NVML_SUCCESS;
}

/* Which GPU, and which slice of it (-1: the GPU), a handle stands for. */
static nvmlReturn_t find(struct state *s, nvmlDevice_t device, const char *name, struct gpu **gpu, int *slice) {
  nvmlReturn_t code;
  if (!started) return NVML_ERROR_UNINITIALIZED;
  if (!load(s)) return NVML_ERROR_DRIVER_NOT_LOADED;
  for (unsigned g = 0; g < s->gpus; g++) {
    int found = (char *)device == &gpu_tag[g] ? -1 : -2;
    for (unsigned i = 0; i < s->gpu[g].slices; i++)
      if ((char *)device == &slice_tag[g][i]) found = (int)i;
    if (found == -2) continue;
    *gpu = &s->gpu[g];
    if (slice) *slice = found;
    pass((*gpu)->hang_s);
    if ((*gpu)->lost) return NVML_ERROR_GPU_IS_LOST;
    code = scripted(s, name);
    return code;
  }
  return NVML_ERROR_INVALID_ARGUMENT;
}

#define FIND(slice_out)                                              \
  static __thread struct state s;                                    \
  struct gpu *g;                                                     \
  nvmlReturn_t code = find(&s, device, __func__, &g, slice_out);     \
  if (code != NVML_SUCCESS) return code

EXPORT nvmlReturn_t nvmlInitWithFlags(unsigned int flags) {
  static __thread struct state s;
  (void)flags;
  if (!load(&s)) return NVML_ERROR_DRIVER_NOT_LOADED;
  pass(s.hang_s);
  if (scripted(&s, "nvmlInit")) return scripted(&s, "nvmlInit");
  started++;
  return NVML_SUCCESS;
}
EXPORT nvmlReturn_t nvmlInit_v2(void) { return nvmlInitWithFlags(0); }
EXPORT nvmlReturn_t nvmlShutdown(void) {
  if (!started) return NVML_ERROR_UNINITIALIZED;
  started--;
  return NVML_SUCCESS;
}
EXPORT const char *nvmlErrorString(nvmlReturn_t code) { return code ? "stub error" : "success"; }
EXPORT nvmlReturn_t nvmlSystemGetDriverVersion(char *version, unsigned int length) {
  static __thread struct state s;
  if (!load(&s)) return NVML_ERROR_DRIVER_NOT_LOADED;
  snprintf(version, length, "%s", s.driver);
  return NVML_SUCCESS;
}
EXPORT nvmlReturn_t nvmlDeviceGetCount_v2(unsigned int *count) {
  static __thread struct state s;
  if (!started) return NVML_ERROR_UNINITIALIZED;
  if (!load(&s)) return NVML_ERROR_DRIVER_NOT_LOADED;
  *count = s.gpus;
  return scripted(&s, __func__);
}
EXPORT nvmlReturn_t nvmlDeviceGetHandleByIndex_v2(unsigned int index, nvmlDevice_t *device) {
  static __thread struct state s;
  if (!started) return NVML_ERROR_UNINITIALIZED;
  if (!load(&s) || index >= s.gpus) return NVML_ERROR_INVALID_ARGUMENT;
  *device = (nvmlDevice_t)&gpu_tag[index];
  pass(s.gpu[index].hang_s);
  return s.gpu[index].lost ? NVML_ERROR_GPU_IS_LOST : scripted(&s, __func__);
}
EXPORT nvmlReturn_t nvmlDeviceGetUUID(nvmlDevice_t device, char *uuid, unsigned int length) {
  int slice;
  FIND(&slice);
  snprintf(uuid, length, "%s", slice < 0 ? g->uuid : g->slice[slice].uuid);
  return NVML_SUCCESS;
}
EXPORT nvmlReturn_t nvmlDeviceGetName(nvmlDevice_t device, char *name, unsigned int length) {
  FIND(NULL);
  snprintf(name, length, "%s", g->name);
  return NVML_SUCCESS;
}
EXPORT nvmlReturn_t nvmlDeviceGetMinorNumber(nvmlDevice_t device, unsigned int *minor) {
  FIND(NULL);
  *minor = g->minor;
  return NVML_SUCCESS;
}
EXPORT nvmlReturn_t nvmlDeviceGetPciInfo_v3(nvmlDevice_t device, nvmlPciInfo_t *pci) {
  FIND(NULL);
  memset(pci, 0, sizeof *pci);
  snprintf(pci->busId, sizeof pci->busId, "%s", g->pci);
  return NVML_SUCCESS;
}
EXPORT nvmlReturn_t nvmlDeviceGetArchitecture(nvmlDevice_t device, nvmlDeviceArchitecture_t *arch) {
  FIND(NULL);
  *arch = g->arch;
  return NVML_SUCCESS;
}
EXPORT nvmlReturn_t nvmlDeviceGetTotalEnergyConsumption(nvmlDevice_t device, unsigned long long *energy) {
  int slice;
  struct timespec now;
  FIND(&slice);
  if (g->energy_mj == ABSENT || slice >= 0) return NVML_ERROR_NOT_SUPPORTED;
  *energy = g->energy_mj;
  if (g->since_ns != ABSENT) {
    clock_gettime(CLOCK_BOOTTIME, &now);
    double dt_s = (double)(now.tv_sec) + (double)now.tv_nsec / 1e9 - (double)g->since_ns / 1e9;
    *energy += (unsigned long long)(dt_s * (double)g->power_mw);
  }
  return NVML_SUCCESS;
}
EXPORT nvmlReturn_t nvmlDeviceGetPowerUsage(nvmlDevice_t device, unsigned int *power) {
  int slice;
  FIND(&slice);
  if (g->power_mw == ABSENT || slice >= 0) return NVML_ERROR_NOT_SUPPORTED;
  *power = (unsigned)g->power_mw;
  return NVML_SUCCESS;
}
EXPORT nvmlReturn_t nvmlDeviceGetPowerManagementLimit(nvmlDevice_t device, unsigned int *limit) {
  FIND(NULL);
  if (g->limit_mw == ABSENT) return NVML_ERROR_NOT_SUPPORTED;
  *limit = (unsigned)g->limit_mw;
  return NVML_SUCCESS;
}
EXPORT nvmlReturn_t nvmlDeviceGetPowerManagementLimitConstraints(nvmlDevice_t device, unsigned int *least,
                                                                 unsigned int *most) {
  FIND(NULL);
  if (g->max_limit_mw == ABSENT) return NVML_ERROR_NOT_SUPPORTED;
  *least = 100000;
  *most = (unsigned)g->max_limit_mw;
  return NVML_SUCCESS;
}
EXPORT nvmlReturn_t nvmlDeviceGetUtilizationRates(nvmlDevice_t device, nvmlUtilization_t *rates) {
  FIND(NULL);
  if (g->slices) return NVML_ERROR_NOT_SUPPORTED; /* as real drivers answer in MIG mode */
  rates->gpu = g->util;
  rates->memory = 0;
  return NVML_SUCCESS;
}
EXPORT nvmlReturn_t nvmlDeviceGetMigMode(nvmlDevice_t device, unsigned int *current, unsigned int *pending) {
  FIND(NULL);
  if (g->arch < NVML_DEVICE_ARCH_AMPERE) return NVML_ERROR_NOT_SUPPORTED;
  *current = *pending = g->slices ? NVML_DEVICE_MIG_ENABLE : NVML_DEVICE_MIG_DISABLE;
  return NVML_SUCCESS;
}
EXPORT nvmlReturn_t nvmlDeviceGetMaxMigDeviceCount(nvmlDevice_t device, unsigned int *count) {
  FIND(NULL);
  *count = g->arch >= NVML_DEVICE_ARCH_AMPERE ? 7 : 0;
  return NVML_SUCCESS;
}
EXPORT nvmlReturn_t nvmlDeviceGetMigDeviceHandleByIndex(nvmlDevice_t device, unsigned int index, nvmlDevice_t *mig) {
  FIND(NULL);
  if (index >= g->slices) return NVML_ERROR_NOT_FOUND;
  *mig = (nvmlDevice_t)&slice_tag[g - s.gpu][index];
  return NVML_SUCCESS;
}
EXPORT nvmlReturn_t nvmlDeviceGetGpuInstanceId(nvmlDevice_t device, unsigned int *id) {
  int slice;
  FIND(&slice);
  if (slice < 0) return NVML_ERROR_NOT_SUPPORTED;
  *id = g->slice[slice].gi;
  return NVML_SUCCESS;
}
EXPORT nvmlReturn_t nvmlDeviceGetComputeInstanceId(nvmlDevice_t device, unsigned int *id) {
  int slice;
  FIND(&slice);
  if (slice < 0) return NVML_ERROR_NOT_SUPPORTED;
  *id = g->slice[slice].ci;
  return NVML_SUCCESS;
}
EXPORT nvmlReturn_t nvmlDeviceGetAttributes_v2(nvmlDevice_t device, nvmlDeviceAttributes_t *attributes) {
  int slice;
  FIND(&slice);
  if (slice < 0) return NVML_ERROR_NOT_SUPPORTED;
  memset(attributes, 0, sizeof *attributes);
  attributes->gpuInstanceSliceCount = g->slice[slice].slices;
  attributes->computeInstanceSliceCount = g->slice[slice].slices;
  attributes->multiprocessorCount = 14 * g->slice[slice].slices;
  return NVML_SUCCESS;
}
EXPORT nvmlReturn_t nvmlDeviceGetProcessUtilization(nvmlDevice_t device, nvmlProcessUtilizationSample_t *out,
                                                    unsigned int *count, unsigned long long last) {
  FIND(NULL);
  if (g->slices) return NVML_ERROR_NOT_SUPPORTED;
  if (!g->processes) return NVML_ERROR_NOT_FOUND;
  if (!out || *count < g->processes) {
    *count = g->processes;
    return NVML_ERROR_INSUFFICIENT_SIZE;
  }
  for (unsigned i = 0; i < g->processes; i++) {
    memset(&out[i], 0, sizeof out[i]);
    out[i].pid = g->process[i].pid;
    out[i].smUtil = g->process[i].sm;
    out[i].timeStamp = last + 1000000;
  }
  *count = g->processes;
  return NVML_SUCCESS;
}
EXPORT nvmlReturn_t nvmlGpmQueryDeviceSupport(nvmlDevice_t device, nvmlGpmSupport_t *support) {
  FIND(NULL);
  support->isSupportedDevice = g->busies > 0;
  return NVML_SUCCESS;
}
EXPORT nvmlReturn_t nvmlGpmSampleAlloc(nvmlGpmSample_t *sample) {
  *sample = calloc(1, sizeof **sample);
  return *sample ? NVML_SUCCESS : NVML_ERROR_MEMORY;
}
EXPORT nvmlReturn_t nvmlGpmSampleFree(nvmlGpmSample_t sample) {
  free(sample);
  return NVML_SUCCESS;
}
EXPORT nvmlReturn_t nvmlGpmMigSampleGet(nvmlDevice_t device, unsigned int instance, nvmlGpmSample_t sample) {
  FIND(NULL);
  for (unsigned i = 0; i < g->busies; i++)
    if (g->busy[i].gi == instance) {
      sample->percent = g->busy[i].percent;
      return NVML_SUCCESS;
    }
  return NVML_ERROR_NOT_SUPPORTED;
}
EXPORT nvmlReturn_t nvmlGpmMetricsGet(nvmlGpmMetricsGet_t *get) { /* over the time between the samples: the later one's */
  if (get->version != NVML_GPM_METRICS_GET_VERSION) return NVML_ERROR_ARGUMENT_VERSION_MISMATCH;
  for (unsigned i = 0; i < get->numMetrics; i++) {
    get->metrics[i].nvmlReturn = get->metrics[i].metricId == NVML_GPM_METRIC_SM_UTIL ? NVML_SUCCESS : NVML_ERROR_NOT_SUPPORTED;
    get->metrics[i].value = get->sample2->percent;
  }
  return NVML_SUCCESS;
}
EXPORT nvmlReturn_t nvmlDeviceGetComputeRunningProcesses_v3(nvmlDevice_t device, unsigned int *count,
                                                            nvmlProcessInfo_t *out) {
  int slice;
  FIND(&slice);
  if (g->processes > *count || !out) {
    *count = g->processes;
    return g->processes ? NVML_ERROR_INSUFFICIENT_SIZE : NVML_SUCCESS;
  }
  for (unsigned i = 0; i < g->processes; i++) {
    memset(&out[i], 0, sizeof out[i]);
    out[i].pid = g->process[i].pid;
    out[i].gpuInstanceId = g->slices ? g->slice[i % g->slices].gi : 0xFFFFFFFFu;
    out[i].computeInstanceId = g->slices ? g->slice[i % g->slices].ci : 0xFFFFFFFFu;
  }
  *count = g->processes;
  return NVML_SUCCESS;
}
