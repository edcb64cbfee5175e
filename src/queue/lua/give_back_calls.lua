-- Gives calls of a day back. KEYS: the day's count, copies. ARGV: how many. Answers the count left.
local wrong = not_whole(1)
if wrong then
  return wrong
end
local taken, left = kept(KEYS[1], is_whole)
if not taken then
  return 0
end
local rest = math.max(0, tonumber(taken) - tonumber(ARGV[1]))
-- It lives as long as it did.
keep(KEYS[1], string.format('%.0f', rest), math.max(left, 1))
return rest
