-- Shared by the scripts that look at mail. On one server a script sees index and data together; on a cluster, where the two
-- lie in different slots, each has scripts of its own.

-- The scores of each class; other numbers than 0 to 3 count as the next worse of them.
local CLASS_RANGES = { { '-inf', '0' }, { '(0', '1' }, { '(1', '2' }, { '(2', '+inf' } }

-- An id as it is told: id, size, digest. Of one longer than allowed only the start is told, and a digest by which it is
-- found again; of others the digest is ''.
local function told_id(id, largest, shown)
  if #id <= largest then
    return id, #id, ''
  end
  return string.sub(id, 1, shown), #id, redis.sha1hex(id)
end

-- Data as it is told: content, size, value. What is larger than allowed is told by its size and its start only.
local function told_data(data, id, largest, shown)
  local value = redis.call('HGET', data, id)
  if not value then
    return 'missing', 0, ''
  elseif #value > largest or #id > largest then
    return 'large', #value, string.sub(value, 1, shown)
  end
  return 'value', #value, value
end

-- The id behind a digest, among these.
local function long_id_among(ids, digest, largest)
  for _, id in ipairs(ids) do
    if #id > largest and redis.sha1hex(id) == digest then
      return id
    end
  end
end

-- Ids too long to be sent are found again where they were read.
local function long_id_in_index(index, score, digest, largest)
  return long_id_among(redis.call('ZRANGEBYSCORE', index, score, score, 'LIMIT', 0, 2000), digest, largest)
end

local function long_id_in_data(data, from, digest, largest)
  return long_id_among(redis.call('HSCAN', data, from, 'COUNT', 200)[2], digest, largest)
end

-- Whether the data under an id is still as it was read.
local function is_same_data(data, id, content, size, read)
  local value = redis.call('HGET', data, id)
  if content == 'missing' then
    return not value
  elseif content == 'large' then
    return value and #value == size and string.sub(value, 1, #read) == read
  end
  return value == read
end

-- Whether the index still says of an id what it said; '' is that it does not know it.
local function is_same_place(index, id, score)
  return (redis.call('ZSCORE', index, id) or '') == score
end
