-- The same reads as gemot_get.lua through etcd's HTTP gateway; a range read is linearizable by default.
local KEYS = 1000
local requests, next_one = {}, 0

function init(args)
  dofile(args[1] .. "/base64.lua")
  local headers = { ["Content-Type"] = "application/json" }
  for i = 0, KEYS - 1 do
    local body = '{"key":"' .. base64(string.format("bench/key-%06d", i)) .. '"}'
    requests[i] = wrk.format("POST", "/v3/kv/range", headers, body)
  end
end

function request()
  local chosen = requests[next_one]
  next_one = (next_one + 1) % KEYS
  return chosen
end

function done(summary, latency, requests)
  local errors = summary.errors
  io.write(string.format(
    '\nRESULT {"requests":%d,"duration_us":%d,"p50_us":%d,"p99_us":%d,"max_us":%d,"errors":%d}\n',
    summary.requests, summary.duration, latency:percentile(50), latency:percentile(99), latency.max,
    errors.connect + errors.read + errors.write + errors.status + errors.timeout))
end
