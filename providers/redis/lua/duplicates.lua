-- Gives producers' entries of a claim their unique keys, or tells whose duplicates they are.
--
-- KEYS[1]  see head.lua
-- ARGV     1 format, 2 the claim's token, 3.. for each entry: index, its own name, its id, key, states
-- Answers  for each '' if it has its key now, or the id of the job that holds it
despite_oom()
local refused = refusal(call('HGET', K .. 'meta', 'oldest'))
if refused then
  return refused
end
local token = ARGV[2]
local claim, answers, set = claim_of(token), {}, nil
for i = 3, #ARGV, 5 do
  local index, name = tonumber(ARGV[i]), ARGV[i + 1]
  local holder = ''
  -- An entry that is held no more is not run, whatever is answered.
  if claim and is_open(claim, index) then
    holder = take_key(ARGV[i + 3], tonumber(ARGV[i + 4]), name, ARGV[i + 2]) or ''
    if holder == '' then
      call('HSET', K .. 'state', name, 'R ' .. token .. '/' .. index)
      set = set or { byte(keyed(claim) .. string.rep('\0', #claim.bits - #keyed(claim)), 1, -1) }
      local at = floor(index / 8) + 1
      set[at] = bit.bor(set[at], 2 ^ (index % 8))
    end
  end
  answers[#answers + 1] = holder
end
if set then
  for i, value in ipairs(set) do
    set[i] = string.char(value)
  end
  call('HSET', K .. 'claims', token .. 'u', table.concat(set))
  if claim.indexed < 2 then
    claim.indexed = claim.indexed + 2
    write_claim(claim)
  end
end
return answers
