-- Puts values under ids, or under the second id where the first is taken. KEYS: data.
-- ARGV: for each taken (0 or 1), id, value, second id, second value. Returns for each 1 (first id) or 2 (second id).
local data = KEYS[1]
local wrong = misused(data, 'hash')
if wrong then
  return wrong
end

local results = {}
for at = 1, #ARGV, 5 do
  if ARGV[at] == '0' and redis.call('HSETNX', data, ARGV[at + 1], ARGV[at + 2]) == 1 then
    results[#results + 1] = 1
  else
    redis.call('HSET', data, ARGV[at + 3], ARGV[at + 4])
    results[#results + 1] = 2
  end
end
return results
