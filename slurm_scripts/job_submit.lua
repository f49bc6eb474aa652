-- Warns, or refuses jobs, where an account's energy or carbon budget is used up: an example for JobSubmitPlugins=lua.
--
-- Install:  beside slurm.conf on the host of slurmctld, JobSubmitPlugins=lua in slurm.conf; and there, every hour:
--               hpccarbon report --budget -f csv -o /var/lib/hpccarbon/budgets.csv
--           The file holds the same figures as the report (docs/reports.md, Budgets): nothing is computed here.
-- Bounded:  reads that file and nothing else, because slurmctld waits. Without it, or where it cannot be read or is of
--           a period that is over, every job is accepted.

local BUDGETS = "/var/lib/hpccarbon/budgets.csv"
local REFUSE = false   -- true: no job of an account whose budget is used up
local LARGEST = 1024 * 1024

-- The fields of a line of CSV: quotes around what holds commas or quotes, and these doubled.
local function fields(line)
    local found, at = {}, 1
    while at <= #line + 1 do
        if line:sub(at, at) == '"' then
            local text, from = "", at + 1
            while true do
                local quote = line:find('"', from, true)
                if not quote then return nil end
                text = text .. line:sub(from, quote - 1)
                from = quote + 1
                if line:sub(from, from) ~= '"' then break end
                text, from = text .. '"', from + 1
            end
            found[#found + 1], at = text, from + 1
        else
            local comma = line:find(",", at, true) or #line + 1
            found[#found + 1], at = line:sub(at, comma - 1), comma + 1
        end
    end
    return found
end

-- The budgets by account (each the list of those that count it, "" for the whole cluster's).
local function read()
    local file = io.open(BUDGETS, "r")
    if not file then return {} end
    local text = file:read(LARGEST) or ""
    file:close()
    local names, found = nil, {}
    for line in text:gmatch("[^\n]+") do
        local values = fields((line:gsub("\r$", "")))
        if values and not names then
            names = values
        elseif values then
            local row = {}
            for place, name in ipairs(names) do row[name] = values[place] end
            for account in ((row.accounts or "") .. ","):gmatch("([^,]*),") do
                found[account] = found[account] or {}
                table.insert(found[account], row)
            end
        end
    end
    return found
end

-- Whether a budget's period has not ended: a file that nobody writes any more must not bind anybody.
local function current(row)
    return (row["until"] or "") > os.date("!%Y-%m-%dT%H:%M:%SZ")
end

local function check(account)
    local known = read()
    for _, rows in ipairs({known[account] or {}, known[""] or {}}) do
        for _, row in ipairs(rows) do
            if current(row) and (row.state == "spent" or row.state == "near") then
                local whose = row.accounts ~= "" and ("account " .. account) or "the cluster"
                slurm.log_user("hpccarbon: %s has used %.0f %% of its %s %s of this %s", whose,
                    tonumber(row.used_percent) or 0, row.limit or "?", row.unit or "", row.period or "period")
                if row.state == "spent" and REFUSE then return slurm.ERROR end
            end
        end
    end
    return slurm.SUCCESS
end

function slurm_job_submit(job_desc, part_list, submit_uid)
    local well, answer = pcall(check, job_desc.account or job_desc.default_account or "")
    return well and answer or slurm.SUCCESS
end

function slurm_job_modify(job_desc, job_rec, part_list, modify_uid)
    return slurm.SUCCESS
end
