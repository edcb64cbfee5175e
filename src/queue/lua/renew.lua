-- Extends leases that are still the caller's, who thereby says that it received them.
-- ARGV: until, then of each lease: object, token. Answers 1 or 0 for each.
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

local answers = {}
for i, lease in ipairs(leases) do
  local record = load(lease.name)
  answers[i] = 0
  if record and record.state == 'leased' and record.token == lease.token then
    record.expires = math.max(record.expires, till)
    record.received = true
    put(lease.name, record, LEASED)
    answers[i] = 1
  end
end
return answers
