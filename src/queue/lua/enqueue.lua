-- Merges requests straight into the queue.
-- ARGV: now, then of each request: object, priority, asked, due, attempts.
-- Answers of each that is dead all the same: {object, died, reason}.
local now = whole(1)
local requests = {}
for at = 2, #ARGV, 5 do
  requests[#requests + 1] = {
    name = text(at),
    request = {
      priority = whole(at + 1), first = whole(at + 2), last = whole(at + 2), due = whole(at + 3),
      attempts = whole(at + 4),
    },
  }
end
local wrong = problem()
if wrong then
  return wrong
end

local dead = {}
for _, entry in ipairs(requests) do
  add_request(entry.name, entry.request, now)
  local record = load(entry.name)
  if record and record.state == 'dead' then
    dead[#dead + 1] = { entry.name, record.died, record.reason or '' }
  end
end
return dead
