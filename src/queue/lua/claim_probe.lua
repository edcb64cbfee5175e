-- Moves the next probe for the one caller that saw the present one. KEYS: circuit. ARGV: seen, next. Answers 1 or 0.
local wrong = not_whole(2)
if wrong then
  return wrong
end
if redis.call('TYPE', KEYS[1]).ok ~= 'hash' or redis.call('HGET', KEYS[1], 'next_probe') ~= ARGV[1] then
  return 0
end
begin_even_when_full(KEYS[1])
redis.call('HSET', KEYS[1], 'next_probe', ARGV[2])
return 1
