-- Redrives dead letters: objects return to the queue, ready at once and with nothing counted; dead entries return to the mailbox
-- as they were, unless newer mail lies under their id. On a cluster the entry was put there before, and this script only deletes.
-- ARGV: now; then for each dead letter name, died, kind (object or entry), id, score, value. Returns the number redriven.
local now = whole(1)
local letters = {}
for at = 2, #ARGV, 6 do
  local letter = {
    name = text(at), died = whole(at + 1), kind = text(at + 2), id = text(at + 3), score = text(at + 4),
    value = text(at + 5),
  }
  if letter.kind == 'entry' and not tonumber(letter.score) then
    bad_argument = bad_argument or at + 4
  end
  letters[#letters + 1] = letter
end
local wrong = problem()
if wrong then
  return wrong
end

local function is_still_dead(letter, set)
  return tonumber(redis.call('ZSCORE', set, letter.name) or -1) == letter.died
end

local count = 0
for _, letter in ipairs(letters) do
  if letter.kind == 'entry' then
    local taken = DATA and (redis.call('HEXISTS', DATA, letter.id) == 1 or redis.call('ZSCORE', INDEX, letter.id))
    if is_still_dead(letter, DEAD_ENTRIES) and not taken then
      if DATA then
        redis.call('HSET', DATA, letter.id, letter.value)
        redis.call('ZADD', INDEX, letter.score, letter.id)
      end
      forget(letter.name, DEAD_ENTRIES)
      count = count + 1
    end
  else
    local record = load(letter.name)
    if record and record.state == 'dead' and is_still_dead(letter, DEAD) then
      record.due = math.min(record.due, now)
      put(letter.name, fresh(record, 0, record.merges, now), DEAD)
      count = count + 1
    end
  end
end
return count
