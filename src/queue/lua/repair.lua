-- Walks a stretch of the records, then of the sets, and repairs names whose record and sets do not agree.
-- ARGV: now, the cursor to begin at ('' continues the last walk with ''), the least number of names, max dead entries.
-- Returns {cursor, 1 when records and sets still differ in number, records rebuilt, names moved, dead entries made, counters
-- reset}.
local now, from, most, max_dead_entries = whole(1), text(2), whole(3), whole(4)
local wrong = problem()
if wrong then
  return wrong
end
begin_even_when_full()

local ALL = { READY, DELAYED[0], DELAYED[1], DELAYED[2], DELAYED[3], LEASED, DEAD, DEAD_ENTRIES }

-- The list of holds is walked last. It is not in ALL, since its names stand in another set, too.
local WALKED = { READY, DELAYED[0], DELAYED[1], DELAYED[2], DELAYED[3], LEASED, DEAD, DEAD_ENTRIES, HELD }

local kept = from == ''
if kept then
  from = redis.call('HGET', COUNTERS, 'repair_cursor') or '0:0'
end
local part, at = string.match(from, '^(%d):(%d+)$')
part, at = tonumber(part) or 0, at or '0'
-- A cursor has at most 20 digits; a longer number may not be one.
if #at > 19 then
  at = '0'
end
if part > #WALKED then
  part, at = 0, '0'
end

local looked = 0
repeat
  local found
  if part == 0 then
    found = redis.call('HSCAN', OBJECTS, at, 'COUNT', most)
  else
    found = redis.call('ZSCAN', WALKED[part], at, 'COUNT', most)
  end
  at = found[1]
  for i = 1, #found[2], 2 do
    repair(found[2][i], now)
    looked = looked + 1
  end
  if at == '0' then
    part = part + 1
  end
until looked >= most or part > #WALKED
evict_dead_entries(max_dead_entries)

if part > #WALKED then
  part, at = 0, '0'
end
local ended = part .. ':' .. at
if kept and ended ~= from then
  redis.call('HSET', COUNTERS, 'repair_cursor', ended)
end
local standing_somewhere = 0
for _, set in ipairs(ALL) do
  standing_somewhere = standing_somewhere + redis.call('ZCARD', set)
end
local uneven = redis.call('HLEN', OBJECTS) ~= standing_somewhere and 1 or 0
return { ended, uneven, repaired[1], repaired[2], repaired[3], counters_repaired }
