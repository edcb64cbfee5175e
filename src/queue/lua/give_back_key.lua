-- Lets the slot live on for one interval, no longer the run's, so that a late renewal cannot bring it back.
-- KEYS: slot, copies. ARGV: run, what stands there instead, linger in ms. Answers 1 when the slot was the run's.
local wrong = not_whole(3)
if wrong then
  return wrong
end
if kept(KEYS[1]) ~= ARGV[1] then
  return 0
end
keep(KEYS[1], ARGV[2], tonumber(ARGV[3]))
return 1
