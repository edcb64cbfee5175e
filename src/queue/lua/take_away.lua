-- Deletes records and letters of unreadable mail that are still as they were read; the rest stays.
-- ARGV: of each: name, text as read. Answers 1 or 0 for each.
local entries = {}
for at = 1, #ARGV, 2 do
  entries[#entries + 1] = { name = text(at), json = text(at + 1) }
end
local wrong = problem()
if wrong then
  return wrong
end

local answers = {}
for i, entry in ipairs(entries) do
  answers[i] = 0
  if redis.call('HGET', OBJECTS, entry.name) == entry.json then
    local record = load(entry.name)
    forget(entry.name, record and (standing(record)) or UNREADABLE)
    answers[i] = 1
  end
end
return answers
