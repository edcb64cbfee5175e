-- Lets a key rest. Only its holder may; a rest that has begun is only ever lengthened.
-- KEYS: slot, copies. ARGV: run, paused:<reason>, rest in ms. Answers 1 when it rests as asked.
local wrong = not_whole(3)
if wrong then
  return wrong
end
local holder, left = kept(KEYS[1])
if holder and (holder == ARGV[1] or (rests(holder) and left < tonumber(ARGV[3]))) then
  keep(KEYS[1], ARGV[2], tonumber(ARGV[3]))
  return 1
end
return 0
