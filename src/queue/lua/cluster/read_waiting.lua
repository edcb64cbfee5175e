-- Reads index entries that wait for their data, the longest waiting and the newest, and the cursor of the data scan.
-- ARGV: the most of each, bytes of ids. Returns {more, cursor, rows}; a row is {id, score}.
local orphans, part = whole(1), whole(2)
local wrong = problem()
if wrong then
  return wrong
end

local rows, seen, more, used = {}, {}, 0, 0
for _, command in ipairs({ 'ZRANGE', 'ZREVRANGE' }) do
  local found = redis.call(command, ORPHANS, 0, orphans - 1, 'WITHSCORES')
  for i = 1, #found, 2 do
    if not seen[found[i]] then
      if used > 0 and used + #found[i] > part then
        more = 1
        break
      end
      used = used + #found[i]
      rows[#rows + 1] = { found[i], found[i + 1] }
    end
    seen[found[i]] = true
  end
end
local from = redis.call('GET', SCAN) or '0'
if #from > 19 or not string.match(from, '^%d+$') then
  from = '0'
end
return { more, from, rows }
