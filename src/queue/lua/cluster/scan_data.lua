-- Takes one step of the scan through the mailbox's data. KEYS: data.
-- ARGV: cursor, step, bytes of ids, longest id, bytes shown of what is longer.
-- Returns {more, next cursor, rows}; a row is {id, id size, id digest, content, size, value}. Only long ids come with their data,
-- since the caller cannot request it by an id that it does not have.
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
  local id, size, digest = id_row(found[2][i], largest, shown)
  -- The cursor stays, so that the next step meets again what did not fit.
  if used > 0 and used + #id > part then
    more, to = 1, from
    break
  end
  used = used + #id
  local content, bytes, value = 'unread', 0, ''
  if digest ~= '' then
    content, bytes, value = data_row(data, found[2][i], largest, shown)
  end
  rows[#rows + 1] = { id, size, digest, content, bytes, value }
end
return { more, to, rows }
