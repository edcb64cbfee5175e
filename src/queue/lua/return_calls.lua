-- Returns calls of a day that were taken and not made. KEYS: the day's count, copies. ARGV: the number of calls.
-- Returns the day's count.
local wrong = not_whole(1)
if wrong then
  return wrong
end
local taken, left = kept(KEYS[1], is_whole)
if not taken then
  return 0
end
local remaining = math.max(0, tonumber(taken) - tonumber(ARGV[1]))
-- The lifetime stays.
keep(KEYS[1], string.format('%.0f', remaining), math.max(left, 1))
return remaining
