-- One step of the scan through the mailbox's data. KEYS: data.
-- ARGV: cursor, step, bytes of ids, longest id, bytes shown of what is longer.
-- Answers {more, next cursor, rows}; a row is {id, id size, id digest, content, size, value}. Only long ids come with their
-- data, since it cannot be asked for by an id that was not told.
local data, from = KEYS[1], ARGV[1]
local wrong = misused(data, 'hash')
if wrong then
  return wrong
end
local part, largest, shown = tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])

local rows, more, used = {}, 0, 0
local found = redis.call('HSCAN', data, from, 'COUNT', ARGV[2])
local to = found[1]
for i = 1, #found[2], 2 do
  local id, size, digest = told_id(found[2][i], largest, shown)
  -- What does not fit any more is met again: the cursor stays.
  if used > 0 and used + #id > part then
    more, to = 1, from
    break
  end
  used = used + #id
  local content, bytes, value = 'unread', 0, ''
  if digest ~= '' then
    content, bytes, value = told_data(data, found[2][i], largest, shown)
  end
  rows[#rows + 1] = { id, size, digest, content, bytes, value }
end
return { more, to, rows }
