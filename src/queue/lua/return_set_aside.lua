-- Frees objects of a kind that were set aside until a time, since their endpoint works again; a bounded number of each priority.
-- ARGV: now, kind, until, the most of each priority. Returns {number freed, 1 when there may be more}.
local now, kind, till, most = whole(1), text(2), whole(3), whole(4)
local wrong = problem()
if wrong then
  return wrong
end
begin_even_when_full()

local count, more = 0, 0
for class = 0, 3 do
  local freed = 0
  for _, name in ipairs(redis.call('ZRANGEBYSCORE', DELAYED[class], num(till), num(till), 'LIMIT', 0, most)) do
    local record = load(name)
    local is_set_aside = record and record.state == 'delayed' and record.held_for and record.hold == till
    if is_set_aside and string.match(name, '^%l+') == kind then
      if record.held_for == 'circuit' then
        lift_hold(name, record, now)
      else
        -- A row of holds of its own goes on.
        local was = set_and_score(record)
        record.hold = 0
        place(record, now)
        put(name, record, was)
      end
      freed = freed + 1
    end
  end
  count = count + freed
  if freed == most then
    more = 1
  end
end
return { count, more }
