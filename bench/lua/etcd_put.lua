-- The same writes as gemot_put.lua through etcd's HTTP gateway: base64 in JSON.
local KEYS, REQUESTS = 10000, 30001
local requests, next_one = {}, 0

function init(args)
  dofile(args[1] .. "/base64.lua")
  local filling = base64(string.rep("v", 247))
  local headers = { ["Content-Type"] = "application/json" }
  for i = 0, REQUESTS - 1 do
    local key = base64(string.format("bench/key-%06d", i % KEYS))
    -- 9 bytes before the filling, so that the two encoded parts can be joined.
    local value = base64(string.format("%09d", i)) .. filling
    local body = '{"key":"' .. key .. '","value":"' .. value .. '"}'
    requests[i] = wrk.format("POST", "/v3/kv/put", headers, body)
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
