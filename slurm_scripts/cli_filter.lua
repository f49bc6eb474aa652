-- Says what a batch job will probably cost, before it is submitted: an example for CliFilterPlugins=lua.
--
-- Install:  beside slurm.conf on the hosts where people submit; CliFilterPlugins=lua in slurm.conf. Where the wrapper
--           slurm_scripts/sbatch is used, leave this out: both say the same.
-- Bounded:  asks for two seconds at most. Whatever goes wrong, the job is submitted and nothing is said.

local HPCCARBON = "/opt/hpccarbon/bin/hpccarbon"
local SECONDS = 2

local function quoted(text)
    return "'" .. tostring(text):gsub("'", "'\\''") .. "'"
end

-- The options that an estimate needs, as sbatch takes them. What was not given comes as a value that means "not set".
local function words(options)
    local found = {}
    local function add(name, value)
        if value ~= nil and value ~= "" and value ~= "unset" and value ~= "invalid-context" then
            found[#found + 1] = quoted("--" .. name .. "=" .. value)
        end
    end
    for _, name in ipairs({"job-name", "account", "partition", "array", "gpus", "gpus-per-node", "gpus-per-task"}) do
        add(name, options[name])
    end
    for _, name in ipairs({"ntasks", "ntasks-per-node", "cpus-per-task", "nodes"}) do
        local number = tonumber(string.match(options[name] or "", "^%d+"))
        if number and number > 0 then add(name, number) end
    end
    local days = tonumber(string.match(options["time"] or "", "^(%d+)%-"))
    if not days or days < 3650 then add("time", options["time"]) end
    if options["gres"] then add("gres", (string.gsub(options["gres"], "gres[:/]", ""))) end
    local argv = options["argv"]
    found[#found + 1] = argv and argv[1] and ("-- " .. quoted(argv[1])) or "--wrap=:"
    return table.concat(found, " ")
end

local function estimate(options)
    local command = "timeout " .. SECONDS .. " " .. HPCCARBON .. " sbatch --dry-run --no-green " .. words(options)
    local said = io.popen(command .. " 2>/dev/null </dev/null")
    if not said then return end
    for line in said:lines() do
        slurm.log_info("%s", (string.gsub(line, "^hpccarbon: ", "")))
    end
    said:close()
end

function slurm_cli_setup_defaults(options, early_pass)
    return slurm.SUCCESS
end

function slurm_cli_pre_submit(options, offset)
    if options["type"] == "sbatch" and offset == 0 then
        pcall(estimate, options)
    end
    return slurm.SUCCESS
end

function slurm_cli_post_submit(offset, job_id, step_id)
    return slurm.SUCCESS
end
