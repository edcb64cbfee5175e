-- Takes calls of a day's quota, at most as many as are left. KEYS: the day's count, copies.
-- ARGV: quota, wanted, lifetime in ms. Returns {granted, taken so far}.
local wrong = not_whole(1, 2, 3)
if wrong then
  return wrong
end
local taken = tonumber(kept(KEYS[1], is_whole) or 0)
local granted = math.max(0, math.min(tonumber(ARGV[2]), tonumber(ARGV[1]) - taken))
if granted > 0 then
  taken = taken + granted
  keep(KEYS[1], string.format('%.0f', taken), tonumber(ARGV[3]))
end
return { granted, taken }
