-- Takes a key's slot when it is free, or the run's already. KEYS: slot, rate, copies. ARGV: run, lifetime in ms.
-- Answers {taken, holder, ms left, learned rate}.
local wrong = not_whole(2)
if wrong then
  return wrong
end
local holder, left = kept(KEYS[1])
-- Ours already: the answer to the same question was lost.
if holder and holder ~= ARGV[1] then
  return { 0, holder, left, '' }
end
keep(KEYS[1], ARGV[1], tonumber(ARGV[2]))
-- A few fields whose end has come, from a place that is another each time.
local found = redis.call('HSCAN', COPIES, time[2], 'COUNT', 50)[2]
for i = 1, #found, 2 do
  local ends = tonumber(string.match(found[i + 1], '^(%d+) '))
  if not ends or ends <= now then
    redis.call('HDEL', COPIES, found[i])
  end
end
return { 1, '', 0, learned(KEYS[2]) }
