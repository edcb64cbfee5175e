-- Extends leases that are still the caller's, which confirms that the caller received them.
-- ARGV: until; then for each lease object, token. Returns 1 for each extended lease, 0 for a lost one.
local till = whole(1)
local leases = {}
for at = 2, #ARGV, 2 do
  leases[#leases + 1] = { name = text(at), token = text(at + 1) }
end
local wrong = problem()
if wrong then
  return wrong
end
begin_even_when_full()

local results = {}
for i, lease in ipairs(leases) do
  local record = load(lease.name)
  results[i] = 0
  if record and record.state == 'leased' and record.token == lease.token then
    record.expires = math.max(record.expires, till)
    record.received = true
    put(lease.name, record, LEASED)
    results[i] = 1
  end
end
return results
