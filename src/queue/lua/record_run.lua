-- Keeps how a run went. KEYS: a hash of the newest run of each sort. ARGV: sort, note, lifetime in ms.
local wrong = misused(KEYS[1], 'hash') or not_whole(3)
if wrong then
  return wrong
end
begin_even_when_full(KEYS[1])
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
redis.call('PEXPIRE', KEYS[1], ARGV[3])
return 1
