-- Keeps what a run learned about the rate of a key. KEYS: rate. ARGV: what was learned, lifetime in ms.
local wrong = not_whole(2)
if wrong then
  return wrong
end
put(KEYS[1], ARGV[1], ARGV[2])
return 1
