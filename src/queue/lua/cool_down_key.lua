-- Starts the cooldown of a key. Only its holder may; a running cooldown is only ever lengthened.
-- KEYS: slot, copies. ARGV: run, cooldown:<reason>, cooldown in ms. Returns 1 when the cooldown applies, else 0.
local wrong = not_whole(3)
if wrong then
  return wrong
end
local holder, left = kept(KEYS[1])
if holder and (holder == ARGV[1] or (is_cooling_down(holder) and left < tonumber(ARGV[3]))) then
  keep(KEYS[1], ARGV[2], tonumber(ARGV[3]))
  return 1
end
return 0
