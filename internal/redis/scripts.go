package redis

import "github.com/redis/go-redis/v9"

// Every script names its KEYS, ARGV and what it returns. All keys of a call are in
// one slot.

// scriptChange counts a write in a partition and tells all processes of it.
//
//	KEYS 1 version of the partition
//	ARGV 1 channel, 2 number of the partition, 3… digests and tag keys (none: all)
//	returns the new version
//
// Scripts that write data do the same at their end: luaChanged.
var scriptChange = redis.NewScript(luaChanged + `
local names = {}
for i = 3, #ARGV do names[#names + 1] = ARGV[i] end
return changed(KEYS[1], ARGV[1], ARGV[2], names)
`) //nolint:gochecknoglobals // constants that the language has no word for

// luaChanged defines changed(version key, channel, partition, names) for scripts
// that write what stamps tell of. A message is PARTITION LF VERSION and for each
// name LF NAME.
const luaChanged = `
local function changed(key, channel, part, names)
  local version = redis.call('INCR', key)
  local message = part .. '\n' .. version
  if #names > 0 then message = message .. '\n' .. table.concat(names, '\n') end
  redis.call('PUBLISH', channel, message)
  return version
end
`

// scriptRenew moves the end of a lease that is still held.
//
//	KEYS 1 lease
//	ARGV 1 token, 2 milliseconds
//	returns 1, or 0 when it is another's or gone
var scriptRenew = redis.NewScript(`
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
return redis.call('PEXPIRE', KEYS[1], ARGV[2])
`) //nolint:gochecknoglobals // see scriptChange

// scriptRelease gives a lease back and tells who waits for it.
//
//	KEYS 1 lease
//	ARGV 1 token, 2 channel, 3 name
//	returns 1, or 0 when it is another's or gone
var scriptRelease = redis.NewScript(`
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
redis.call('DEL', KEYS[1])
redis.call('PUBLISH', ARGV[2], ARGV[3])
return 1
`) //nolint:gochecknoglobals // see scriptChange
