-- For wrk: POSTs the file that is named after `--`, if one is, and reports in one line that a program can read.

function init(args)
  if args[1] then
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
