-- Puts in an entry of the shared state of another Redis. The entry that is here stays, unless it is weaker: a shorter cooldown,
-- fewer calls.
-- KEYS: the key, copies. ARGV: its kind (key, rate, calls, circuit), lifetime in ms, value; for a circuit since, next probe, code
-- and detail. Returns 1 when it was put in, else 0.
local kind = ARGV[1]
local wrong = not_whole(2)
if wrong then
  return wrong
end
local life = tonumber(ARGV[2])
if kind == 'circuit' or kind == 'rate' then
  if redis.call('EXISTS', KEYS[1]) == 1 then
    return 0
  elseif kind == 'rate' then
    put(KEYS[1], ARGV[3], life)
    return 1
  end
  redis.call('HSET', KEYS[1], 'since', ARGV[3], 'next_probe', ARGV[4], 'code', ARGV[5], 'detail', ARGV[6])
  redis.call('PEXPIRE', KEYS[1], life)
  return 1
end
local here, left = kept(KEYS[1])
-- A second of difference may pass between the read there and this script.
local is_shorter_cooldown = kind == 'key' and is_cooling_down(here) and left + 1000 < life
local is_smaller_count = kind == 'calls' and is_whole(here) and is_whole(ARGV[3]) and tonumber(here) < tonumber(ARGV[3])
if here and not is_shorter_cooldown and not is_smaller_count then
  return 0
end
keep(KEYS[1], ARGV[3], life)
return 1
