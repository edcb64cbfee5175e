-- Ends the holds that were put on objects for one reason, since the reason is gone.
-- ARGV: now, code. Returns the number of holds.
local now, code = whole(1), text(2)
local wrong = problem()
if wrong then
  return wrong
end
begin_even_when_full()

local count = 0
for _, name in ipairs(redis.call('ZRANGE', HELD, 0, -1)) do
  local record = load(name)
  if not record then
    repair(name, now)
  elseif record.state == 'delayed' and record.held_for == code then
    lift_hold(name, record, now)
    count = count + 1
  else
    list_hold(name, record)
  end
end
return count
