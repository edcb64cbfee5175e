-- Gives calls of a day back. KEYS: the day's count. ARGV: how many. Answers the count left.
local wrong = misused(KEYS[1], 'string') or not_whole(1)
if wrong then
  return wrong
end
local taken = redis.call('GET', KEYS[1])
if not taken then
  return 0
end
if not is_whole(taken) then
  return refuse('key ' .. KEYS[1] .. ' holds no count')
end
-- A write that cannot grow comes first, as in put(): it lives as long as it did.
local life = redis.call('PTTL', KEYS[1])
if life > 0 then
  redis.call('PEXPIRE', KEYS[1], life)
end
return redis.call('DECRBY', KEYS[1], string.format('%d', math.min(tonumber(taken), tonumber(ARGV[1]))))
