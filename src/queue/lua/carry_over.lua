-- Carries over what runs agreed on at another Redis. What is here stays, unless it says less: a shorter rest, fewer calls.
-- KEYS: the key. ARGV: its kind (key, rate, calls, circuit), life in ms, value; of a circuit since, next probe, code and
-- detail.
-- Answers 1 when it was put in.
local kind = ARGV[1]
local wrong = misused(KEYS[1], kind == 'circuit' and 'hash' or 'string') or not_whole(2)
if wrong then
  return wrong
end
if kind == 'circuit' then
  if redis.call('EXISTS', KEYS[1]) == 1 then
    return 0
  end
  redis.call('HSET', KEYS[1], 'since', ARGV[3], 'next_probe', ARGV[4], 'code', ARGV[5], 'detail', ARGV[6])
  redis.call('PEXPIRE', KEYS[1], ARGV[2])
  return 1
end
local here = redis.call('GET', KEYS[1])
local is_shorter_rest = kind == 'key' and here and string.sub(here, 1, 7) == 'paused:'
  and redis.call('PTTL', KEYS[1]) < tonumber(ARGV[2])
local is_smaller_count = kind == 'calls' and is_whole(here) and is_whole(ARGV[3]) and tonumber(here) < tonumber(ARGV[3])
if here and not is_shorter_rest and not is_smaller_count then
  return 0
end
put(KEYS[1], ARGV[3], ARGV[2])
return 1
