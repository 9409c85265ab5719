-- PUT of 256 B values; no key is written twice with the same value in a row.
local KEYS, REQUESTS = 10000, 30001
local requests, next_one = {}, 0

function init(args)
  for i = 0, REQUESTS - 1 do
    local value = string.format("%08d", i) .. string.rep("v", 248)
    requests[i] = wrk.format("PUT", string.format("/v1/kv/bench/key-%06d", i % KEYS), nil, value)
  end
end

function request()
  local chosen = requests[next_one]
  next_one = (next_one + 1) % REQUESTS
  return chosen
end

function done(summary, latency, requests)
  local errors = summary.errors
  io.write(string.format(
    '\nRESULT {"requests":%d,"duration_us":%d,"p50_us":%d,"p99_us":%d,"max_us":%d,"errors":%d}\n',
    summary.requests, summary.duration, latency:percentile(50), latency:percentile(99), latency.max,
    errors.connect + errors.read + errors.write + errors.status + errors.timeout))
end
