-- Moves records back into the mailbox, each unless it changed since it was read. Mail that already lies there under the id is
-- newer and stays; the record then goes under its second id. On a cluster the mail was put there before, and this script only
-- deletes.
-- ARGV: for each record object, record as read, score, id, value, second id, value with the second id. Returns the number moved.
local records = {}
for at = 1, #ARGV, 7 do
  records[#records + 1] = {
    name = text(at), json = text(at + 1), score = whole(at + 2), id = text(at + 3), value = text(at + 4),
    second_id = text(at + 5), second_value = text(at + 6),
  }
end
local wrong = problem()
if wrong then
  return wrong
end

local count = 0
for _, entry in ipairs(records) do
  if redis.call('HGET', OBJECTS, entry.name) == entry.json then
    local record, id, value = load(entry.name), entry.id, entry.value
    if DATA then
      if redis.call('HEXISTS', DATA, id) == 1 or redis.call('ZSCORE', INDEX, id) then
        id, value = entry.second_id, entry.second_value
      end
      redis.call('HSET', DATA, id, value)
      redis.call('ZADD', INDEX, num(entry.score), id)
    end
    forget(entry.name, record and (set_and_score(record)) or READY)
    count = count + 1
  end
end
return count
