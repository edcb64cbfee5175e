-- Shared by the scripts that read mail. On one server a script sees index and data together; on a cluster, where the two lie in
-- different slots, each has scripts of its own.

-- The scores of each priority; other numbers than 0 to 3 count as the next worse of them.
local CLASS_RANGES = { { '-inf', '0' }, { '(0', '1' }, { '(1', '2' }, { '(2', '+inf' } }

-- Returns id, size and digest. Of a longer id than allowed only the start is returned, and a digest by which the id is found
-- again; for others the digest is ''.
local function id_row(id, largest, shown)
  if #id <= largest then
    return id, #id, ''
  end
  return string.sub(id, 1, shown), #id, redis.sha1hex(id)
end

-- Returns content, size and value of the data. Of a larger value than allowed only the size and the start are returned.
local function data_row(data, id, largest, shown)
  local value = redis.call('HGET', data, id)
  if not value then
    return 'missing', 0, ''
  elseif #value > largest or #id > largest then
    return 'large', #value, string.sub(value, 1, shown)
  end
  return 'value', #value, value
end

-- Returns the id of a digest, among these.
local function long_id_among(ids, digest, largest)
  for _, id in ipairs(ids) do
    if #id > largest and redis.sha1hex(id) == digest then
      return id
    end
  end
end

-- An id that is too long to be sent is found again where it was read: at either end of a priority, or in a step of the scan.
local function long_id_in_index(index, score, digest, largest)
  return long_id_among(redis.call('ZRANGEBYSCORE', index, score, score, 'LIMIT', 0, 1000), digest, largest)
    or long_id_among(redis.call('ZREVRANGEBYSCORE', index, score, score, 'LIMIT', 0, 1000), digest, largest)
end

local function long_id_in_data(data, from, digest, largest)
  return long_id_among(redis.call('HSCAN', data, from, 'COUNT', 1000)[2], digest, largest)
end

-- True when the data under an id is still as it was read.
local function is_same_data(data, id, content, size, read)
  local value = redis.call('HGET', data, id)
  if content == 'missing' then
    return not value
  elseif content == 'large' then
    return value and #value == size and string.sub(value, 1, #read) == read
  end
  return value == read
end

-- True when the index still has the same score for an id; '' stands for no entry.
local function is_same_place(index, id, score)
  return (redis.call('ZSCORE', index, id) or '') == score
end

-- Returns the `requested_at` of a value, to the second, as one number; 0 when it has not the usual form, so that invalid mail is
-- handled first. `asked_at` in `wire.rs` has the same rules in Rust.
local function asked_at(value)
  local year, month, day, hour, minute, second = string.match(value,
    '"requested_at"%s*:%s*"(%d%d%d%d)%-(%d%d)%-(%d%d)[Tt ](%d%d):(%d%d):(%d%d)')
  return year and tonumber(year .. month .. day .. hour .. minute .. second) or 0
end

-- Returns the entries of a priority by turns from either end, at most `reach` from each. Redis orders them by id, so that one
-- end alone would always hold the same kind.
local function both_ends(index, range, reach)
  local first = redis.call('ZRANGEBYSCORE', index, range[1], range[2], 'WITHSCORES', 'LIMIT', 0, reach)
  local last = redis.call('ZREVRANGEBYSCORE', index, range[2], range[1], 'WITHSCORES', 'LIMIT', 0, reach)
  local entries, seen = {}, {}
  for i = 1, #first, 2 do
    for _, found in ipairs({ first, last }) do
      if not seen[found[i]] then
        seen[found[i]] = true
        entries[#entries + 1] = { id = found[i], score = found[i + 1] }
      end
    end
  end
  return entries
end

-- Returns the entries by the time of their request, the oldest first; as many of them as have `bytes` altogether.
local function oldest_first(data, entries, bytes, largest)
  local sample, used = {}, 0
  for i, entry in ipairs(entries) do
    local size = redis.call('HSTRLEN', data, entry.id)
    local cost = math.min(#entry.id, largest) + math.min(size, largest)
    if used > 0 and used + cost > bytes then
      break
    end
    used = used + cost
    entry.at, entry.asked, entry.cost = i, 0, cost
    if size > 0 and size <= largest and #entry.id <= largest then
      entry.asked = asked_at(redis.call('HGET', data, entry.id))
    end
    sample[i] = entry
  end
  table.sort(sample, function(one, other)
    if one.asked ~= other.asked then
      return one.asked < other.asked
    end
    return one.at < other.at
  end)
  return sample
end
