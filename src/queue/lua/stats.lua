-- Counts; changes nothing. -1 stands for no time. On a cluster the mailbox is counted by other scripts.
-- ARGV: now, sample size for the oldest request, largest value in the sample.
-- Returns {mailbox, ready of each priority, delayed, leased, dead letters, evicted, orphans, first request of the longest
-- waiting, next due, mail at the head of each priority}; mail is {id, score, value}.
local now, sample_size, largest = whole(1), whole(2), whole(3)
local wrong = problem()
if wrong then
  return wrong
end

local ready, delayed, oldest, next_due = {}, 0, -1, -1
for class = 0, 3 do
  local from, to = num(class * CLASS_WIDTH), '(' .. num((class + 1) * CLASS_WIDTH)
  ready[class + 1] = redis.call('ZCOUNT', READY, from, to)
  local first = redis.call('ZRANGEBYSCORE', READY, from, to, 'WITHSCORES', 'LIMIT', 0, 1)[2]
  if first and (oldest < 0 or first - class * CLASS_WIDTH < oldest) then
    oldest = first - class * CLASS_WIDTH
  end
  delayed = delayed + redis.call('ZCARD', DELAYED[class])
  local due = tonumber(redis.call('ZRANGE', DELAYED[class], 0, 0, 'WITHSCORES')[2])
  if due and (next_due < 0 or due < next_due) then
    next_due = due
  end
  -- An object that is due and not yet moved waits, too.
  for _, name in ipairs(redis.call('ZRANGEBYSCORE', DELAYED[class], '-inf', num(now), 'LIMIT', 0, sample_size)) do
    local record = load(name)
    if record and (oldest < 0 or record.first < oldest) then
      oldest = record.first
    end
  end
end

local mail = {}
for _, range in ipairs(INDEX and CLASS_RANGES or {}) do
  local found = redis.call('ZRANGEBYSCORE', INDEX, range[1], range[2], 'WITHSCORES', 'LIMIT', 0, sample_size)
  for i = 1, #found, 2 do
    if #found[i] <= largest and redis.call('HSTRLEN', DATA, found[i]) <= largest then
      local value = redis.call('HGET', DATA, found[i])
      if value then
        mail[#mail + 1] = { found[i], found[i + 1], value }
      end
    end
  end
end
return {
  INDEX and redis.call('ZCARD', INDEX) or 0, ready, delayed, redis.call('ZCARD', LEASED),
  redis.call('ZCARD', DEAD) + redis.call('ZCARD', DEAD_ENTRIES),
  tonumber(redis.call('HGET', COUNTERS, 'dead_letters_evicted') or 0), redis.call('ZCARD', ORPHANS), oldest, next_due, mail,
}
