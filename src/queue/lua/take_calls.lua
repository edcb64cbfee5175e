-- Takes calls of a day's limit, as many as are left and at most as many as wanted. KEYS: the day's count.
-- ARGV: limit, wanted, lifetime in ms. Answers {granted, taken so far}.
local wrong = misused(KEYS[1], 'string') or not_whole(1, 2, 3)
if wrong then
  return wrong
end
local taken = redis.call('GET', KEYS[1]) or '0'
if not is_whole(taken) then
  return refuse('key ' .. KEYS[1] .. ' holds no count')
end
taken = tonumber(taken)
local granted = math.max(0, math.min(tonumber(ARGV[2]), tonumber(ARGV[1]) - taken))
if granted > 0 then
  taken = taken + granted
  put(KEYS[1], string.format('%.0f', taken), ARGV[3])
end
return { granted, taken }
