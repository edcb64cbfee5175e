-- Opens a circuit. An open one keeps its `since`, and its next probe when that is later; the reason is the newest.
-- KEYS: circuit. ARGV: since, next probe, lifetime in ms, code and detail of the reason. Returns 1.
local wrong = not_whole(1, 2, 3)
if wrong then
  return wrong
end
local since, probe
if redis.call('TYPE', KEYS[1]).ok == 'hash' then
  since, probe = unpack(redis.call('HMGET', KEYS[1], 'since', 'next_probe'))
end
if not is_whole(since) then
  since = ARGV[1]
end
if is_whole(probe) and tonumber(probe) > tonumber(ARGV[2]) then
  ARGV[2] = probe
end
-- Also deletes a key of another type; and a write that only frees comes first.
redis.call('DEL', KEYS[1])
redis.call('HSET', KEYS[1], 'since', since, 'next_probe', ARGV[2], 'code', ARGV[4], 'detail', ARGV[5])
redis.call('PEXPIRE', KEYS[1], ARGV[3])
return 1
