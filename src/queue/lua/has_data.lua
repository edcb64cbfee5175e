-- Returns 1 for each id that has data, else 0. KEYS: the hash. ARGV: ids.
local results = {}
for i, id in ipairs(ARGV) do
  results[i] = redis.call('HEXISTS', KEYS[1], id)
end
return results
