-- Takes a key's slot when it is free, or already the run's. KEYS: slot, rate, copies. ARGV: run, lifetime in ms.
-- Returns {taken, holder, ms left, learned rate}.
local wrong = not_whole(2)
if wrong then
  return wrong
end
local holder, left = kept(KEYS[1])
-- It may already be ours: the reply to an earlier try was lost.
if holder and holder ~= ARGV[1] then
  return { 0, holder, left, '' }
end
keep(KEYS[1], ARGV[1], tonumber(ARGV[2]))
-- Deletes some expired fields of the copies. The second of the clock is the scan cursor, so that each call begins elsewhere.
local found = redis.call('HSCAN', COPIES, time[2], 'COUNT', 50)[2]
for i = 1, #found, 2 do
  local ends = tonumber(string.match(found[i + 1], '^(%d+) '))
  if not ends or ends <= now then
    redis.call('HDEL', COPIES, found[i])
  end
end
return { 1, '', 0, learned(KEYS[2]) }
