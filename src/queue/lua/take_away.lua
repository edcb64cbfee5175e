-- Deletes records and dead entries that are still as they were read.
-- ARGV: for each name, text as read. Returns 1 for each deleted one, 0 for a changed one.
local entries = {}
for at = 1, #ARGV, 2 do
  entries[#entries + 1] = { name = text(at), json = text(at + 1) }
end
local wrong = problem()
if wrong then
  return wrong
end

local results = {}
for i, entry in ipairs(entries) do
  results[i] = 0
  if redis.call('HGET', OBJECTS, entry.name) == entry.json then
    local record = load(entry.name)
    forget(entry.name, record and (set_and_score(record)) or DEAD_ENTRIES)
    results[i] = 1
  end
end
return results
