-- Keeps the learned rate of a key for the next run. KEYS: rate. ARGV: rate, lifetime in ms. Returns 1.
local wrong = not_whole(2)
if wrong then
  return wrong
end
put(KEYS[1], ARGV[1], ARGV[2])
return 1
