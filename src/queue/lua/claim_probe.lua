-- Claims the next probe of a circuit, for the one caller that saw its present time, and extends the circuit.
-- KEYS: circuit. ARGV: seen, next, lifetime in ms. Returns 1 for the caller that may probe, else 0.
local wrong = not_whole(2, 3)
if wrong then
  return wrong
end
if redis.call('TYPE', KEYS[1]).ok ~= 'hash' or redis.call('HGET', KEYS[1], 'next_probe') ~= ARGV[1] then
  return 0
end
begin_even_when_full(KEYS[1])
redis.call('HSET', KEYS[1], 'next_probe', ARGV[2])
redis.call('PEXPIRE', KEYS[1], ARGV[3])
return 1
