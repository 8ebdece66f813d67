-- For wrk: POSTs the file that is named after `--`, if one is, else asks for PAGES addresses in turn, since real clients do
-- not ask for one; reports in one line that a program can read.

local PAGES = 1000
local pages, last = {}, 0

local function next_page()
  last = last % PAGES + 1
  return pages[last]
end

function init(args)
  if not args[1] then
    local path, query = wrk.path:match("^([^?]*)(.*)$")
    for number = 1, PAGES do
      pages[number] = wrk.format("GET", path .. "/" .. number * 7919 % 100003 .. query)
    end
    request = next_page
  else
    local file = assert(io.open(args[1], "rb"))
    wrk.method = "POST"
    wrk.headers["Content-Type"] = "application/octet-stream"
    wrk.body = file:read("*a")
    file:close()
  end
end

function done(summary, latency)
  local failed = summary.errors
  io.write(string.format(
    '\nRESULT {"requests": %d, "seconds": %.6f, "median": %.3f, "p99": %.3f, "worst": %.3f, "failed": %d}\n',
    summary.requests - failed.status, summary.duration / 1e6,
    latency:percentile(50) / 1e3, latency:percentile(99) / 1e3, latency.max / 1e3,
    failed.connect + failed.read + failed.write + failed.timeout + failed.status))
end
