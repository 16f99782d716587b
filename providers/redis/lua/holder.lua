-- Who holds a unique key. Changes nothing.
--
-- KEYS[1]  see head.lua
-- ARGV     1 format, 2 key
-- Answers  the job's id, or ''
local refused = refusal(call('HGET', K .. 'meta', 'oldest'))
if refused then
  return refused
end
local _, _, holder = jobs_of(ARGV[2], '')
return holder or ''
