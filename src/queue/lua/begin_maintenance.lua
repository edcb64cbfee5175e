-- Notes maintenance for one hour from now. An earlier note keeps its `since`, and its probe when that is later.
-- KEYS: pause. ARGV: since, next probe, lifetime in ms.
local wrong = misused(KEYS[1], 'hash') or not_whole(1, 2, 3)
if wrong then
  return wrong
end
local since, probe = unpack(redis.call('HMGET', KEYS[1], 'since', 'next_probe'))
if probe and tonumber(probe) > tonumber(ARGV[2]) then
  ARGV[2] = probe
end
begin_even_when_full(KEYS[1])
redis.call('HSET', KEYS[1], 'since', since or ARGV[1], 'next_probe', ARGV[2])
redis.call('PEXPIRE', KEYS[1], ARGV[3])
return 1
