-- Counts; changes nothing. -1 stands for "none". On a cluster the mailbox is counted apart.
-- ARGV: now, how many are looked at for the oldest, largest value that is.
-- Answers {mailbox, ready of each class, delayed, leased, dead letters, evicted, orphans, first asked of the longest
-- waiting, next due, mail at the head of each class}; mail is {id, score, value}.
local now, looked_at, largest = whole(1), whole(2), whole(3)
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
  -- What is due and not yet moved waits, too.
  for _, name in ipairs(redis.call('ZRANGEBYSCORE', DELAYED[class], '-inf', num(now), 'LIMIT', 0, looked_at)) do
    local record = load(name)
    if record and (oldest < 0 or record.first < oldest) then
      oldest = record.first
    end
  end
end

local mail = {}
for _, range in ipairs(INDEX and CLASS_RANGES or {}) do
  local found = redis.call('ZRANGEBYSCORE', INDEX, range[1], range[2], 'WITHSCORES', 'LIMIT', 0, looked_at)
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
  redis.call('ZCARD', DEAD) + redis.call('ZCARD', UNREADABLE),
  tonumber(redis.call('HGET', COUNTERS, 'dead_letters_evicted') or 0), redis.call('ZCARD', ORPHANS), oldest, next_due, mail,
}
