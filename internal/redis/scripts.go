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
`)

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

// scriptWant replaces the database that all replicas are to use.
//
//	KEYS 1 wanted.KIND
//	ARGV 1 version that it has (0: there is none), 2 next version, 3 digest, 4 doc
//	returns 1, or 0 when it has another version
var scriptWant = redis.NewScript(`
if (redis.call('HGET', KEYS[1], 'version') or '0') ~= ARGV[1] then return 0 end
redis.call('HSET', KEYS[1], 'version', ARGV[2], 'database', ARGV[3], 'doc', ARGV[4])
return 1
`)

// luaFenced defines fenced(wanted key, digest of a database) for scripts that begin
// engines: whether another database is wanted, so that the engine is not to be begun.
const luaFenced = `
local function fenced(key, database)
  local wanted = redis.call('HGET', key, 'database')
  return wanted and wanted ~= database
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
`)

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
`)

// The queue. All its scripts get the same KEYS, in the order of queueKeys:
//
//	KEYS 1 jobs, 2 jobs.open, 3 jobs.ready, 4 jobs.later, 5 jobs.held, 6 jobs.line,
//	     7 jobs.dead, 8 jobs.turns, 9 jobs.paused, 10 jobs.tokens, 11 alive, 12 heard
//
// A job is a JSON object: g registry, r repository, t tag, p priority, a attempts, b
// not before, e error, l token, u leased until, h holder, o opened, x died ("" when
// open), n turn, q number. Times are nanoseconds in 20 digits, turns and numbers have
// 16, so that text is in their order: Lua's numbers are too short for them.
//
// An open job is in jobs.open and jobs.line, and in one of jobs.ready, jobs.later and
// jobs.held, its shelf. All of these are sorted sets of equal scores, in the order of
// their members; the place of a job in one is found in the logarithm of its length:
//
//	jobs.open, jobs.ready  priority, turn, number, digest
//	jobs.later             priority, not before, turn, number, digest
//	jobs.held              priority, leased until, turn, number, digest
//	jobs.line              priority, REGISTRY/REPO, NUL, turn, number
//	jobs.dead              died, number, digest
const luaQueue = `
local JOBS, OPEN, READY, LATER, HELD, LINE, DEAD, TURNS, PAUSED, TOKENS, ALIVE, HEARD = unpack(KEYS)
local never = string.rep('0', 20)

local function read(d)
  local s = redis.call('HGET', JOBS, d)
  return s and cjson.decode(s)
end

local function keep(d, j)
  local s = cjson.encode(j)
  redis.call('HSET', JOBS, d, s)
  return s
end

-- The turn of a job that is opened now: the one after its repository's last open job,
-- but none that has passed.
local function turn(p, repo)
  local n = tonumber(redis.call('HGET', TURNS, p) or '0')
  local last = redis.call('ZREVRANGEBYLEX', LINE, '[' .. p .. repo .. '\1', '[' .. p .. repo .. '\0', 'LIMIT', 0, 1)[1]
  if last then n = math.max(n, tonumber(string.sub(last, -32, -17)) + 1) end
  return string.format('%016d', n)
end

local function repo(j) return j.g .. '/' .. j.r end

local function enter(d, j)
  redis.call('ZADD', OPEN, 0, j.p .. j.n .. j.q .. d)
  redis.call('ZADD', LINE, 0, j.p .. repo(j) .. '\0' .. j.n .. j.q)
end

local function leave(d, j)
  redis.call('ZREM', OPEN, j.p .. j.n .. j.q .. d)
  redis.call('ZREM', LINE, j.p .. repo(j) .. '\0' .. j.n .. j.q)
end

-- aside takes a job from its shelf and returns which that was.
local function aside(d, j)
  local place = j.n .. j.q .. d
  if redis.call('ZREM', HELD, j.p .. j.u .. place) == 1 then return 'held' end
  if redis.call('ZREM', LATER, j.p .. j.b .. place) == 1 then return 'later' end
  redis.call('ZREM', READY, j.p .. place)
  return 'ready'
end

local function shelve(d, j, shelf)
  local place = j.n .. j.q .. d
  if shelf == 'held' then redis.call('ZADD', HELD, 0, j.p .. j.u .. place)
  elseif shelf == 'later' then redis.call('ZADD', LATER, 0, j.p .. j.b .. place)
  else redis.call('ZADD', READY, 0, j.p .. place) end
end

-- push opens a job, or raises an open one; 1 when there may be more to take than before.
local function push(d, registry, repository, tag, p, now)
  local j = read(d)
  if j and j.x ~= '' then
    redis.call('ZREM', DEAD, j.x .. j.q .. d)
    j = nil
  end
  if not j then
    j = {g = registry, r = repository, t = tag, p = p, a = 0, b = now, e = '', l = '', u = never, h = '', o = now, x = ''}
    j.n = turn(p, repo(j))
    j.q = string.format('%016d', redis.call('HINCRBY', TURNS, 'number', 1))
    enter(d, j)
    shelve(d, j, 'ready')
    keep(d, j)
    return 1
  end
  local hurried = p == '0' and j.b > now
  if p >= j.p and not hurried then return 0 end
  local shelf = aside(d, j)
  leave(d, j)
  if p < j.p then
    j.n = turn(p, repo(j))
    j.p = p
  end
  if hurried then
    j.b = now
    if shelf == 'later' then shelf = 'ready' end
  end
  enter(d, j)
  shelve(d, j, shelf)
  keep(d, j)
  if shelf == 'held' then return 0 end
  return 1
end

-- mine reads a job that is open under a token.
local function mine(d, token)
  local j = read(d)
  if j and j.x == '' and j.l == token then return j end
end

local function forget(j)
  if j.l ~= '' then redis.call('HDEL', TOKENS, j.l) end
  j.l = ''
end

-- release lets a held job be taken; its token is kept, in case that its holder lives
-- after all and renews it first.
local function release(d, j)
  aside(d, j)
  j.u, j.h = never, ''
  shelve(d, j, 'later')
  keep(d, j)
end
`

// scriptPush opens a job, or raises an open one, and tells all processes.
//
//	KEYS those of the queue
//	ARGV 1 channel, 2 now, 3 digest, 4 registry, 5 repository, 6 tag, 7 priority
//	returns 1, or 0 when there is not more to take than before
var scriptPush = redis.NewScript(luaQueue + `
local more = push(ARGV[3], ARGV[4], ARGV[5], ARGV[6], ARGV[7], ARGV[2])
if more == 1 then redis.call('PUBLISH', ARGV[1], '') end
return more
`)

// scriptTake leases the next job. A call that is repeated with its token returns the
// same job.
//
//	KEYS those of the queue
//	ARGV 1 token, 2 holder, 3 now, 4 end of the lease, 5 the time before which leases
//	     of others have ended for sure, 6 how many jobs whose time has come are moved
//	     in at most, 7… priorities, the most urgent first
//	returns digest and job, or nil when there is none
var scriptTake = redis.NewScript(luaQueue + `
local token, me, now, sure, most = ARGV[1], ARGV[2], ARGV[3], ARGV[5], ARGV[6]
local before = redis.call('HGET', TOKENS, token)
if before then return {before, redis.call('HGET', JOBS, before)} end

local function due(shelf, p)
  return ipairs(redis.call('ZRANGEBYLEX', shelf, '[' .. p, '(' .. p .. now .. ':', 'LIMIT', 0, most))
end

local function next(p)
  for _, m in due(LATER, p) do
    redis.call('ZREM', LATER, m)
    redis.call('ZADD', READY, 0, p .. string.sub(m, 22))
  end
  for _, m in due(HELD, p) do
    local ended = string.sub(m, 2, 21) <= sure
    if not ended then
      local j = read(string.sub(m, 54))
      ended = not j or j.h == me
    end
    if ended then
      redis.call('ZREM', HELD, m)
      redis.call('ZADD', READY, 0, p .. string.sub(m, 22))
    end
  end
  while true do
    local m = redis.call('ZRANGEBYLEX', READY, '[' .. p, '(' .. p .. ':', 'LIMIT', 0, 1)[1]
    if not m then return end
    redis.call('ZREM', READY, m)
    local d = string.sub(m, 34)
    local j = read(d)
    if j then return d, j end
  end
end

for i = 7, #ARGV do
  local p = ARGV[i]
  if redis.call('HEXISTS', PAUSED, p) == 0 then
    local d, j = next(p)
    if d then
      forget(j)
      j.l, j.u, j.h = token, ARGV[4], me
      redis.call('HSET', TOKENS, token, d)
      shelve(d, j, 'held')
      if tonumber(j.n) > tonumber(redis.call('HGET', TURNS, p) or '0') then redis.call('HSET', TURNS, p, j.n) end
      return {d, keep(d, j)}
    end
  end
end
return false
`)

// scriptRenewJob moves the end of a job's lease.
//
//	KEYS those of the queue
//	ARGV 1 digest, 2 token, 3 holder, 4 new end
//	returns 1, or 0 when it is closed or another's
var scriptRenewJob = redis.NewScript(luaQueue + `
local j = mine(ARGV[1], ARGV[2])
if not j then return 0 end
aside(ARGV[1], j)
j.h, j.u = ARGV[3], ARGV[4]
shelve(ARGV[1], j, 'held')
keep(ARGV[1], j)
return 1
`)

// scriptFinish ends a holding of a job. Its token ends with it: a call that is
// repeated finds nothing, and counts no attempt twice.
//
//	KEYS those of the queue
//	ARGV 1 digest, 2 token, 3 "done", "retry" or "dead", 4 when it may be tried again,
//	     or died, 5 error
//	returns 1, or 0 when it is closed or another's
var scriptFinish = redis.NewScript(luaQueue + `
local d, how = ARGV[1], ARGV[3]
local j = mine(d, ARGV[2])
if not j then return 0 end
forget(j)
aside(d, j)
local behind = how == 'retry' and turn(j.p, repo(j)) -- while it counts itself
leave(d, j)
if how == 'done' then return redis.call('HDEL', JOBS, d) end
j.a, j.e, j.u, j.h = j.a + 1, ARGV[5], never, ''
if how == 'retry' then
  j.n, j.b = behind, ARGV[4]
  enter(d, j)
  shelve(d, j, 'later')
else
  j.b, j.x = never, ARGV[4]
  redis.call('ZADD', DEAD, 0, j.x .. j.q .. d)
end
keep(d, j)
return 1
`)

// scriptReopen opens dead jobs again, the longest dead first, or lets one that failed
// be taken at once, and tells all processes.
//
//	KEYS those of the queue
//	ARGV 1 channel, 2 now, 3 digest, or "" for all that are dead, 4 how many at most
//	returns how many
var scriptReopen = redis.NewScript(luaQueue + `
local now = ARGV[2]
local function reopen(d, j)
  local p = j.p
  if p == '0' then p = '1' end
  push(d, j.g, j.r, j.t, p, now)
end
local n = 0
if ARGV[3] == '' then
  for _, m in ipairs(redis.call('ZRANGE', DEAD, 0, ARGV[4] - 1)) do
    local d = string.sub(m, 37)
    local j = read(d)
    if j then reopen(d, j) else redis.call('ZREM', DEAD, m) end
    n = n + 1
  end
else
  local d = ARGV[3]
  local j = read(d)
  if j and j.x ~= '' then
    reopen(d, j)
    n = 1
  elseif j and j.u <= now and j.b > now then
    aside(d, j)
    j.b = now
    shelve(d, j, 'ready')
    keep(d, j)
    n = 1
  end
end
if n > 0 then redis.call('PUBLISH', ARGV[1], '') end
return n
`)

// scriptForget removes dead jobs.
//
//	KEYS those of the queue
//	ARGV 1 those that died before this time, 2 and all but so many, 3 how many at most
//	returns how many were removed; there may be more when it is as many as asked for
var scriptForget = redis.NewScript(luaQueue + `
local n = 0
local function drop(members)
  for _, m in ipairs(members) do
    redis.call('HDEL', JOBS, string.sub(m, 37))
    n = n + redis.call('ZREM', DEAD, m)
  end
end
local surplus = math.min(redis.call('ZCARD', DEAD) - ARGV[2], ARGV[3])
if surplus > 0 then drop(redis.call('ZRANGE', DEAD, 0, surplus - 1)) end
if n < tonumber(ARGV[3]) then
  drop(redis.call('ZRANGEBYLEX', DEAD, '-', '(' .. ARGV[1], 'LIMIT', 0, ARGV[3] - n))
end
return n
`)

// scriptLoadJob stores a job that nobody holds in place of what is kept of its digest.
//
//	KEYS those of the queue
//	ARGV 1 digest, 2 job
//	returns 1
var scriptLoadJob = redis.NewScript(luaQueue + `
local d = ARGV[1]
local old, j = read(d), cjson.decode(ARGV[2])
if old then
  forget(old)
  if old.x ~= '' then
    redis.call('ZREM', DEAD, old.x .. old.q .. d)
  else
    aside(d, old)
    leave(d, old)
  end
end
j.h = ''
if tonumber(j.q) == 0 then
  j.q = string.format('%016d', redis.call('HINCRBY', TURNS, 'number', 1))
elseif tonumber(j.q) > tonumber(redis.call('HGET', TURNS, 'number') or '0') then
  redis.call('HSET', TURNS, 'number', string.format('%.0f', tonumber(j.q)))
end
if j.x ~= '' then
  redis.call('ZADD', DEAD, 0, j.x .. j.q .. d)
else
  enter(d, j)
  shelve(d, j, j.a > 0 and 'later' or 'ready') -- what never failed is in line
end
keep(d, j)
return 1
`)

// scriptBeat says that a process lives, and lets the jobs be taken whose holders do
// not. Time is counted as far as anybody was heard: a gap of more than ARGV 3 is
// one in which Redis was away, and nobody is dead for having been silent in it.
//
//	KEYS those of the queue
//	ARGV 1 holder, 2 for how many milliseconds it lives without another beat (0: it
//	     ends now), 3 milliseconds that a gap counts at most, 4 channel, 5… tokens of
//	     calls of scriptTake that were not answered: nobody works on their jobs
//	returns those that are gone since the last beat, and how many jobs were let go
var scriptBeat = redis.NewScript(luaQueue + `
local me, ttl = ARGV[1], tonumber(ARGV[2])
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
local last = tonumber(redis.call('HGET', HEARD, 'at') or now)
local heard = tonumber(redis.call('HGET', HEARD, 'sum') or 0) + math.max(0, math.min(now - last, tonumber(ARGV[3])))
redis.call('HSET', HEARD, 'at', string.format('%.0f', now), 'sum', string.format('%.0f', heard))
redis.call('ZADD', ALIVE, ttl > 0 and heard + ttl or heard - 1, me)

local freed = 0
for i = 5, #ARGV do
  local d = redis.call('HGET', TOKENS, ARGV[i])
  local j = d and mine(d, ARGV[i])
  if j then
    forget(j)
    release(d, j)
    freed = freed + 1
  end
end
local gone = redis.call('ZRANGEBYSCORE', ALIVE, '-inf', '(' .. string.format('%.0f', heard))
if #gone > 0 then
  redis.call('ZREM', ALIVE, unpack(gone))
  local alive = {}
  for _, name in ipairs(redis.call('ZRANGE', ALIVE, 0, -1)) do alive[name] = true end
  for _, m in ipairs(redis.call('ZRANGE', HELD, 0, -1)) do
    local d = string.sub(m, 54)
    local j = read(d)
    if j and not alive[j.h] then
      release(d, j)
      freed = freed + 1
    end
  end
end
if freed > 0 then redis.call('PUBLISH', ARGV[4], '') end
return {gone, freed}
`)

// Repositories, manifests and what names what (catalog.go, links.go, tags.go,
// lineage.go). In their keys and fields a digest is 32 bytes if it is a sha256, else
// as written (short). A time is nanoseconds in 20 digits (timeText), so that text is in
// its order: Lua's numbers are too short for them.

// luaLists defines lists that only grow, in the fields of a hash. A long one is in
// several fields, so that one more item does not write all of them again: FIELD holds
// 4 bytes, how many others there are, and the first items or, when there are others,
// the latest; FIELD with a number of 4 bytes behind it holds older ones.
const luaLists = `
local function list(key, field)
  local v = redis.call('HGET', key, field)
  if not v then return false end
  local more = struct.unpack('>I4', v)
  local parts = {}
  for i = 1, more do parts[i] = redis.call('HGET', key, field .. struct.pack('>I4', i)) or '' end
  parts[more + 1] = string.sub(v, 5)
  return table.concat(parts)
end

local function append(key, field, item, max)
  local v = redis.call('HGET', key, field) or '\0\0\0\0'
  if #v + #item > max and #v > 4 then
    local more = struct.unpack('>I4', v) + 1
    redis.call('HSET', key, field .. struct.pack('>I4', more), string.sub(v, 5))
    v = struct.pack('>I4', more)
  end
  redis.call('HSET', key, field, v .. item)
end
`

// luaWords defines note(key, field, word): adds a line to a field's lines.
const luaWords = `
local function note(key, field, word)
  local v = redis.call('HGET', key, field)
  if not v then redis.call('HSET', key, field, word)
  elseif not string.find('\n' .. v .. '\n', '\n' .. word .. '\n', 1, true) then redis.call('HSET', key, field, v .. '\n' .. word) end
end
`

// scriptAppendLists adds items to lists of one hash.
//
//	KEYS 1 hash
//	ARGV 1 bytes of a field, 2… field and item
//	returns 1
var scriptAppendLists = redis.NewScript(luaLists + `
for i = 2, #ARGV, 2 do append(KEYS[1], ARGV[i], ARGV[i + 1], tonumber(ARGV[1])) end
return 1
`)

// scriptLists reads lists of one hash.
//
//	KEYS 1 hash
//	ARGV fields
//	returns the items of each, joined, or nil
var scriptLists = redis.NewScript(luaLists + `
local out = {}
for i, field in ipairs(ARGV) do out[i] = list(KEYS[1], field) end
return out
`)

// scriptNote adds lines to fields of one hash.
//
//	KEYS 1 hash
//	ARGV field and line, again and again
//	returns 1
var scriptNote = redis.NewScript(luaWords + `
for i = 1, #ARGV, 2 do note(KEYS[1], ARGV[i], ARGV[i + 1]) end
return 1
`)

// scriptName registers that a link is about to name blobs of one partition. What is
// being removed now is not registered.
//
//	KEYS 1 named, 2… discard of each blob
//	ARGV 1 the claim, 2… blobs (short)
//	returns the numbers, from 1, of the blobs that are being removed
var scriptName = redis.NewScript(luaWords + `
local busy = {}
for i = 2, #ARGV do
  if redis.call('EXISTS', KEYS[i]) == 1 then busy[#busy + 1] = i - 1
  elseif redis.call('HGET', KEYS[1], ARGV[i]) ~= '1' then note(KEYS[1], ARGV[i], ARGV[1]) end
end
return busy
`)

// scriptDiscard locks a blob that nothing names, so that nothing will.
//
//	KEYS 1 named, 2 discard of the blob
//	ARGV 1 blob (short), 2 claims on it that came to nothing ("": none), 3 token, 4 milliseconds
//	returns 1; 0 when something may name it; -1 when another holds the lock
var scriptDiscard = redis.NewScript(`
local claims = redis.call('HGET', KEYS[1], ARGV[1])
if claims and claims ~= ARGV[2] then return 0 end
if not redis.call('SET', KEYS[2], ARGV[3], 'NX', 'PX', ARGV[4]) then return -1 end
if claims then redis.call('HDEL', KEYS[1], ARGV[1]) end
return 1
`)

// scriptDiscarded ends the lock of scriptDiscard.
//
//	KEYS 1 discard of the blob
//	ARGV 1 token
//	returns 1, or 0 when it is another's or gone
var scriptDiscarded = redis.NewScript(`
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
return redis.call('DEL', KEYS[1])
`)

// scriptPutImage stores a manifest that may be there already, and where it is about to
// be linked.
//
//	KEYS 1 images, 2 firsts, 3 places
//	ARGV 1 digest (short), 2 document, 3 when first seen and kind, 4 REGISTRY/REPO
//	returns 1
var scriptPutImage = redis.NewScript(luaWords + `
redis.call('HSETNX', KEYS[1], ARGV[1], ARGV[2])
redis.call('HSETNX', KEYS[2], ARGV[1], ARGV[3])
note(KEYS[3], ARGV[1], ARGV[4])
return 1
`)

// scriptLink makes a repository hold a manifest, and with it what that names.
//
//	KEYS 1 version, 2 repositories, 3 links, 4 linked, 5 holders of the repository
//	ARGV 1 channel, 2 number of the partition, 3 REGISTRY/REPO, 4 digest (short),
//	     5 latest time (Unix milliseconds), 6 how many blobs, 7… blobs (short), …
//	     digests to tell of (none: all)
//	returns 1; 0 when it is linked already; -1 when it is too late
var scriptLink = redis.NewScript(luaChanged + luaLists + `
local names, blobs = {}, tonumber(ARGV[6])
for i = 7 + blobs, #ARGV do names[#names + 1] = ARGV[i] end
if redis.call('HEXISTS', KEYS[3], ARGV[4]) == 1 then
  changed(KEYS[1], ARGV[1], ARGV[2], names)
  return 0
end
local now = redis.call('TIME')
if now[1] * 1000 + math.floor(now[2] / 1000) > tonumber(ARGV[5]) then return -1 end
local n = redis.call('HINCRBY', KEYS[4], 'last', 1)
redis.call('SADD', KEYS[2], ARGV[3])
redis.call('HSET', KEYS[4], n, ARGV[4])
redis.call('HSET', KEYS[3], ARGV[4], n)
for i = 7, 6 + blobs do append(KEYS[5], ARGV[i], struct.pack('>I4', n), 512) end
changed(KEYS[1], ARGV[1], ARGV[2], names)
return 1
`)

// scriptHolders reads which manifests of a repository name a blob.
//
//	KEYS 1 links, 2 linked, 3 holders of the repository
//	ARGV 1 digest (short)
//	returns digests (short), the latest linked first; the one asked for before all
var scriptHolders = redis.NewScript(luaLists + `
local out = {}
if redis.call('HEXISTS', KEYS[1], ARGV[1]) == 1 then out[1] = ARGV[1] end
local numbers = list(KEYS[3], ARGV[1]) or ''
for i = #numbers - 3, 1, -4 do
  local d = redis.call('HGET', KEYS[2], (struct.unpack('>I4', numbers, i)))
  if d and d ~= out[1] then out[#out + 1] = d end
end
return out
`)

// scriptPlaces tells of manifests whether a repository holds them, and by which tag.
//
//	KEYS 1 links, 2 tags, 3 naming of the repository
//	ARGV digests (short)
//	returns for each false, or the first of the tags that name it now ("": none)
var scriptPlaces = redis.NewScript(luaTags + `
local out = {}
for i, d in ipairs(ARGV) do
  out[i] = false
  if redis.call('HEXISTS', KEYS[1], d) == 1 then
    out[i] = ''
    for tag in lines(redis.call('HGET', KEYS[3], d) or '') do
      if named(KEYS[2], tag) == d and (out[i] == '' or before(tag, out[i])) then out[i] = tag end
    end
  end
end
return out
`)

// luaTags defines how tags are read. A tag is lines: digest (short in Lua's hands),
// changed, checked, size, media type. A span is when it was first and last so, and
// left, divided by spaces.
const luaTags = `
local function lines(s) return string.gmatch(s, '[^\n]+') end

local function short(d)
  local hex = string.match(d, '^sha256:(%x+)$')
  if not hex or #hex ~= 64 then return d end
  return (string.gsub(hex, '..', function(x) return string.char(tonumber(x, 16)) end))
end

local function named(tags, tag)
  local v = redis.call('HGET', tags, tag)
  return v and short(string.match(v, '^[^\n]*'))
end

-- before compares bytes: Lua's < is that of the server's locale.
local function before(a, b)
  for i = 1, math.min(#a, #b) do
    local x, y = string.byte(a, i), string.byte(b, i)
    if x ~= y then return x < y end
  end
  return #a < #b
end
`

// scriptSetTag keeps what a tag names, and its spans when that is something else.
//
//	KEYS 1 version, 2 repositories, 3 tags, 4 spans, 5 history, 6 naming of the
//	     repository, 7 moves
//	ARGV 1 channel, 2 number of the partition, 3 REGISTRY/REPO, 4 tag, 5 digest ("":
//	     gone), 6 changed, 7 checked, 8 size LF media type, 9 changed in microseconds,
//	     10 1 or 0: whether it may move the tag, 11 key of the tag, 12… digests to
//	     tell of when it moves ("*": all)
//	returns {1} when it names what it named, {0} when it may not be moved, {2} when it
//	     was; with the digests that the tag named before, LF between them
var scriptSetTag = redis.NewScript(luaChanged + luaWords + luaTags + `
local VERSION, REPOS, TAGS, SPANS, HISTORY, NAMING, MOVES = unpack(KEYS)
local channel, part, repo, tag, digest, moved, checked, rest, micros, may = unpack(ARGV, 1, 10)
local v = redis.call('HGET', TAGS, tag)
local was, since, seen
if v then was, since, seen = string.match(v, '^([^\n]*)\n(%d+)\n(%d+)\n') end
if was == digest then
  redis.call('HSET', TAGS, tag, digest .. '\n' .. since .. '\n' .. checked .. '\n' .. rest)
  changed(VERSION, channel, part, {ARGV[11]})
  return {1}
end
local history = redis.call('HGET', HISTORY, tag) or ''
if may ~= '1' then return {0, history} end

redis.call('SADD', REPOS, repo)
redis.call('HSET', TAGS, tag, digest .. '\n' .. moved .. '\n' .. checked .. '\n' .. rest)
local function span(d) return short(d) .. tag end
local function move(d) return repo .. '\n' .. tag .. '\n' .. d end
local function read(d)
  local s = redis.call('HGET', SPANS, span(d))
  if s then return string.match(s, '^(%d+) (%d+) (%d+)$') end
end
if was and was ~= '' then
  local first, last = read(was)
  if not first then first, last = since, seen end
  if seen > last then last = seen end
  redis.call('HSET', SPANS, span(was), first .. ' ' .. last .. ' ' .. moved)
  redis.call('ZADD', MOVES, micros, move(was))
end
if digest ~= '' then
  local first, last = read(digest)
  if not first or moved < first then first = moved end
  if not last or checked > last then last = checked end
  redis.call('HSET', SPANS, span(digest), first .. ' ' .. last .. ' ' .. string.rep('0', 20))
  redis.call('ZREM', MOVES, move(digest))
  note(HISTORY, tag, digest)
  note(NAMING, short(digest), tag)
end
local names = {ARGV[11]}
for i = 12, #ARGV do
  if ARGV[i] == '*' then names = {} break end
  names[#names + 1] = ARGV[i]
end
changed(VERSION, channel, part, names)
return {2, history}
`)

// scriptSpans reads the spans in which tags named digests.
//
//	KEYS 1 tags, 2 spans, 3 naming of the repository
//	ARGV digests (short)
//	returns for each span: number of the digest, from 1; tag, span, state of the tag
var scriptSpans = redis.NewScript(luaTags + `
local out = {}
for i, d in ipairs(ARGV) do
  for tag in lines(redis.call('HGET', KEYS[3], d) or '') do
    local span, state = redis.call('HGET', KEYS[2], d .. tag), redis.call('HGET', KEYS[1], tag)
    if span and state then
      local n = #out
      out[n + 1], out[n + 2], out[n + 3], out[n + 4] = i, tag, span, state
    end
  end
end
return out
`)

// scriptHistory reads the spans of tags.
//
//	KEYS 1 tags, 2 spans, 3 history of the repository
//	ARGV tags
//	returns for each span: number of the tag, from 1; digest, span, state of the tag
var scriptHistory = redis.NewScript(luaTags + `
local out = {}
for i, tag in ipairs(ARGV) do
  for digest in lines(redis.call('HGET', KEYS[3], tag) or '') do
    local span, state = redis.call('HGET', KEYS[2], short(digest) .. tag), redis.call('HGET', KEYS[1], tag)
    if span and state then
      local n = #out
      out[n + 1], out[n + 2], out[n + 3], out[n + 4] = i, digest, span, state
    end
  end
end
return out
`)

// scriptSee notes since when tags are in lists of a repository.
//
//	KEYS 1 repositories, 2 seen of the repository
//	ARGV 1 REGISTRY/REPO, 2 time, 3… tags
//	returns 1
var scriptSee = redis.NewScript(`
redis.call('SADD', KEYS[1], ARGV[1])
for i = 3, #ARGV do
  local v = redis.call('HGET', KEYS[2], ARGV[i])
  if not v or ARGV[2] < v then redis.call('HSET', KEYS[2], ARGV[i], ARGV[2]) end
end
return 1
`)

// scriptSetTagList replaces the tag list of a repository.
//
//	KEYS 1 version, 2 repositories, 3 lists
//	ARGV 1 channel, 2 number of the partition, 3 REGISTRY/REPO, 4 list, 5 key of the list
//	returns 1
var scriptSetTagList = redis.NewScript(luaChanged + `
redis.call('SADD', KEYS[2], ARGV[3])
redis.call('HSET', KEYS[3], ARGV[3], ARGV[4])
changed(KEYS[1], ARGV[1], ARGV[2], {ARGV[5]})
return 1
`)

// Pulls, in the partition of their image (pulls_packed.go). What was asked on a day
// has numbers from 0; they are taken back only with the whole day, so that the next
// one is how many there are.

// scriptServed notes when manifests were served.
//
//	KEYS 1 version, 2 served
//	ARGV 1 channel, 2 number of the partition, then digest, first and last time (20 digits)
//	returns the digests that were served for the first time, or earlier than was known
var scriptServed = redis.NewScript(luaChanged + `
local moved = {}
for i = 3, #ARGV, 3 do
  local first, last = ARGV[i + 1], ARGV[i + 2]
  local old = redis.call('HGET', KEYS[2], ARGV[i])
  if old then
    if string.sub(old, 1, 20) <= first then first = string.sub(old, 1, 20) else moved[#moved + 1] = ARGV[i] end
    if string.sub(old, 22) > last then last = string.sub(old, 22) end
  else
    moved[#moved + 1] = ARGV[i]
  end
  local new = first .. ' ' .. last
  if new ~= old then redis.call('HSET', KEYS[2], ARGV[i], new) end
end
if #moved > 0 then changed(KEYS[1], ARGV[1], ARGV[2], moved) end
return moved
`)

// scriptPulls appends pulls to the log of one hour.
//
//	KEYS 1 pulls.hours, 2 asked.DAY, 3 pulls.HOUR
//	ARGV 1 hour, then for each: asked (text), kind of client, time (packed), client (packed)
//	returns nothing
var scriptPulls = redis.NewScript(`
local out = {}
local function flush()
  if #out > 0 then redis.call('RPUSH', KEYS[3], unpack(out)) end
  out = {}
end
redis.call('SADD', KEYS[1], ARGV[1])
for i = 2, #ARGV, 4 do
  local id = redis.call('HGET', KEYS[2], ARGV[i])
  if not id then
    id = redis.call('HLEN', KEYS[2])
    redis.call('HSET', KEYS[2], ARGV[i], id)
  end
  local n, varint = tonumber(id) * 4 + tonumber(ARGV[i + 1]), ''
  while n >= 128 do
    varint = varint .. string.char(128 + n % 128)
    n = math.floor(n / 128)
  end
  out[#out + 1] = ARGV[i + 2] .. varint .. string.char(n) .. ARGV[i + 3]
  if #out == 1000 then flush() end
end
flush()
`)

// scriptPullsRead reads hours of one day, together with the numbers that they name:
// a day that is forgotten between two reads could give them to others.
//
//	KEYS 1 asked.DAY, 2… pulls.HOUR
//	returns a list of texts and numbers in turn, then for each hour a list of pulls
var scriptPullsRead = redis.NewScript(`
local out = {redis.call('HGETALL', KEYS[1])}
for i = 2, #KEYS do out[i] = redis.call('LRANGE', KEYS[i], 0, -1) end
return out
`)

// scriptPullsDrop removes pulls of one hour: those from before a time, and those of
// some minutes; and with the last of a day what was asked on it.
//
//	KEYS 1 pulls.hours, 2 asked.DAY, 3 pulls.HOUR
//	ARGV 1 hour, 2 nanoseconds since it began, 3… minutes of it, 0 to 59
//	returns nothing
var scriptPullsDrop = redis.NewScript(`
local hour, cut, minutes = tonumber(ARGV[1]), tonumber(ARGV[2]), {}
for i = 3, #ARGV do minutes[tonumber(ARGV[i])] = true end
local kept, all = {}, {}
if cut < 3600e9 then all = redis.call('LRANGE', KEYS[3], 0, -1) end
for _, e in ipairs(all) do
  local a, b, c, d, f, g = string.byte(e, 1, 6)
  local at = math.floor(((((a * 256 + b) * 256 + c) * 256 + d) * 256 + f) * 4 + g / 64)
  if at >= cut and not minutes[math.floor(at / 60e9)] then kept[#kept + 1] = e end
end
if #kept > 0 and #kept == #all then return end
redis.call('DEL', KEYS[3])
for i = 1, #kept, 1000 do redis.call('RPUSH', KEYS[3], unpack(kept, i, math.min(i + 999, #kept))) end
if #kept > 0 then return end
redis.call('SREM', KEYS[1], ARGV[1])
local day = math.floor(hour / 24) * 24
for h = day, day + 23 do
  if redis.call('SISMEMBER', KEYS[1], string.format('%d', h)) == 1 then return end
end
redis.call('DEL', KEYS[2])
`)

// scriptVerdicts stores verdicts; one that is there is kept.
//
//	KEYS 1 verdicts, 2 verdicts.at
//	ARGV for each: id, time in microseconds, document
//	returns nothing
var scriptVerdicts = redis.NewScript(`
for i = 1, #ARGV, 3 do
  if redis.call('HSETNX', KEYS[1], ARGV[i], ARGV[i + 2]) == 1 then redis.call('ZADD', KEYS[2], ARGV[i + 1], ARGV[i]) end
end
`)

// scriptVerdictsForget removes verdicts.
//
//	KEYS 1 verdicts, 2 verdicts.at
//	ARGV ids
//	returns nothing
var scriptVerdictsForget = redis.NewScript(`
for _, id in ipairs(ARGV) do
  redis.call('HDEL', KEYS[1], id)
  redis.call('ZREM', KEYS[2], id)
end
`)

// scriptPutAttestations replaces what was verified about an image.
//
//	KEYS 1 version, 2 attestations
//	ARGV 1 channel, 2 number of the partition, 3 digest, 4 document
//	returns nothing
var scriptPutAttestations = redis.NewScript(luaChanged + `
redis.call('HSET', KEYS[2], ARGV[3], ARGV[4])
changed(KEYS[1], ARGV[1], ARGV[2], {ARGV[3]})
`)

// scriptCreateException stores an exception.
//
//	KEYS 1 exceptions, 2 version
//	ARGV 1 channel, 2 number of the partition, 3 name of the stamp, 4 id, 5 document
//	returns 1, or 0 when the id is taken
var scriptCreateException = redis.NewScript(luaChanged + `
if redis.call('HSETNX', KEYS[1], ARGV[4], ARGV[5]) == 0 then return 0 end
changed(KEYS[2], ARGV[1], ARGV[2], {ARGV[3]})
return 1
`)

// scriptReviseException replaces an exception by its successor. What is written back
// unchanged is a write too: who waits for the disk after it waits for what was there.
//
//	KEYS 1 exceptions, 2 version
//	ARGV 1 channel, 2 number of the partition, 3 name of the stamp, 4 id,
//	     5 document that was read, 6 document
//	returns 1, or 0 when another one is there
var scriptReviseException = redis.NewScript(luaChanged + `
if redis.call('HGET', KEYS[1], ARGV[4]) ~= ARGV[5] then return 0 end
redis.call('HSET', KEYS[1], ARGV[4], ARGV[6])
changed(KEYS[2], ARGV[1], ARGV[2], {ARGV[3]})
return 1
`)

// scriptPutPushes opens pushes.
//
//	KEYS 1 pushes, 2 pushes.at
//	ARGV for each: Push.Key, time (20 digits), document
//	returns nothing
//
// The document is stored after its time; pushes.at is in the order of its members,
// which are times and keys.
var scriptPutPushes = redis.NewScript(`
for i = 1, #ARGV, 3 do
  local old = redis.call('HGET', KEYS[1], ARGV[i])
  if old then redis.call('ZREM', KEYS[2], string.sub(old, 1, 20) .. ARGV[i]) end
  redis.call('HSET', KEYS[1], ARGV[i], ARGV[i + 1] .. ARGV[i + 2])
  redis.call('ZADD', KEYS[2], 0, ARGV[i + 1] .. ARGV[i])
end
`)

// scriptOpenPushes returns the oldest.
//
//	KEYS 1 pushes, 2 pushes.at
//	ARGV 1 how many
//	returns documents behind their times
var scriptOpenPushes = redis.NewScript(`
local out = {}
for _, m in ipairs(redis.call('ZRANGEBYLEX', KEYS[2], '-', '+', 'LIMIT', 0, ARGV[1])) do
  out[#out + 1] = redis.call('HGET', KEYS[1], string.sub(m, 21))
end
return out
`)

// scriptClosePush closes a push unless another one has replaced it.
//
//	KEYS 1 pushes, 2 pushes.at
//	ARGV 1 Push.Key, 2 time (20 digits)
//	returns 1, or 0 when it is not open
var scriptClosePush = redis.NewScript(`
local old = redis.call('HGET', KEYS[1], ARGV[1])
if not old or string.sub(old, 1, 20) ~= ARGV[2] then return 0 end
redis.call('ZREM', KEYS[2], ARGV[2] .. ARGV[1])
return redis.call('HDEL', KEYS[1], ARGV[1])
`)

// The outbox. Everything is in one part, because Append is all or nothing. Its scripts
// get the same KEYS, in the order of outboxKeys:
//
//	KEYS 1 events, 2 events.meta, 3 events.seq, 4 events.at, 5 events.causes,
//	     6 events.line, 7 events.ready, 8 events.later, 9 events.dead, 10 events.sinks,
//	     11 events.number, 12 marks, 13 marks.due
//
// What the scripts need of an event is a JSON object in events.meta: q its number (16
// digits), t its time (20 digits), c its cause, o its order, d its deliveries by sink:
// s state, a attempts, n not before, e settled (20 digits each), r error.
//
// An open delivery is in events.line. The first of a sink and an order is the head: it
// is in events.ready, or in events.later when it has a time to wait for. A dead one is
// in events.dead. But for events.seq (scores are numbers) these are sorted sets of
// equal scores, in the order of their members; \0 ends what has no fixed length:
//
//	events.at      time, id
//	events.causes  cause, \0, number, id
//	events.line    sink, \0, order, \0, number, id
//	events.ready   sink, \0, number, id
//	events.later   sink, \0, not before, number, id
//	events.dead    sink, \0, number, id
//	marks.due      due, key
const luaOutbox = `
local EVENTS, META, SEQ, AT, CAUSES, LINE, READY, LATER, DEAD, SINKS, NUMBER, MARKS, DUE = unpack(KEYS)
local never = string.rep('0', 20)

local function meta(id)
  local s = redis.call('HGET', META, id)
  return s and cjson.decode(s)
end

local function keep(id, m) redis.call('HSET', META, id, cjson.encode(m)) end

-- head is the id of the first open delivery of a sink and an order.
local function head(sink, order)
  local prefix = sink .. '\0' .. order
  local first = redis.call('ZRANGEBYLEX', LINE, '[' .. prefix .. '\0', '(' .. prefix .. '\1', 'LIMIT', 0, 1)[1]
  return first and string.sub(first, #prefix + 18)
end

local function hide(sink, id, m)
  redis.call('ZREM', READY, sink .. '\0' .. m.q .. id)
  redis.call('ZREM', LATER, sink .. '\0' .. m.d[sink].n .. m.q .. id)
end

local function show(sink, id, m)
  if m.d[sink].n == never then redis.call('ZADD', READY, 0, sink .. '\0' .. m.q .. id)
  else redis.call('ZADD', LATER, 0, sink .. '\0' .. m.d[sink].n .. m.q .. id) end
end

-- part takes a delivery out of all sets; join puts it where its state says. Between
-- the two it may be changed.
local function part(sink, id, m)
  if m.d[sink].s == 'dead' then redis.call('ZREM', DEAD, sink .. '\0' .. m.q .. id) end
  if m.d[sink].s ~= '' then return end
  local was = head(sink, m.o)
  redis.call('ZREM', LINE, sink .. '\0' .. m.o .. '\0' .. m.q .. id)
  if was ~= id then return end
  hide(sink, id, m)
  local next = head(sink, m.o)
  if next then show(sink, next, meta(next)) end
end

local function join(sink, id, m)
  if m.d[sink].s == 'dead' then redis.call('ZADD', DEAD, 0, sink .. '\0' .. m.q .. id) end
  if m.d[sink].s ~= '' then return end
  local was = head(sink, m.o)
  redis.call('ZADD', LINE, 0, sink .. '\0' .. m.o .. '\0' .. m.q .. id)
  if was == id or head(sink, m.o) ~= id then return end
  if was then hide(sink, was, meta(was)) end
  show(sink, id, m)
end

local function fresh() return {s = '', a = 0, n = never, e = never, r = ''} end

-- append stores an event without deliveries; nil when it is there.
local function append(id, at, cause, order, doc)
  if redis.call('HEXISTS', EVENTS, id) == 1 then return nil end
  local n = redis.call('INCR', NUMBER)
  local m = {q = string.format('%016d', n), t = at, c = cause, o = order, d = {}}
  redis.call('HSET', EVENTS, id, doc)
  redis.call('ZADD', SEQ, n, id)
  redis.call('ZADD', AT, 0, at .. id)
  if cause ~= '' then redis.call('ZADD', CAUSES, 0, cause .. '\0' .. m.q .. id) end
  return m
end

local function mark(key, due, doc)
  local old = redis.call('HGET', MARKS, key)
  if old then redis.call('ZREM', DUE, string.sub(old, 1, 20) .. key) end
  redis.call('HSET', MARKS, key, due .. doc)
  if due ~= never then redis.call('ZADD', DUE, 0, due .. key) end
end
`

// scriptAppendEvents appends events with open deliveries, and marks.
//
//	KEYS as all of the outbox
//	ARGV 1 how many events, then for each: id, time, cause, order, document, how many
//	sinks, sinks; then for each mark: key, due, document
//	returns nothing
var scriptAppendEvents = redis.NewScript(luaOutbox + `
local i = 2
for _ = 1, tonumber(ARGV[1]) do
  local id, sinks = ARGV[i], tonumber(ARGV[i + 5])
  local m = append(id, ARGV[i + 1], ARGV[i + 2], ARGV[i + 3], ARGV[i + 4])
  if m then
    for s = i + 6, i + 5 + sinks do
      if not m.d[ARGV[s]] then
        m.d[ARGV[s]] = fresh()
        redis.call('SADD', SINKS, ARGV[s])
        join(ARGV[s], id, m)
      end
    end
    keep(id, m)
  end
  i = i + 6 + sinks
end
while i <= #ARGV do
  mark(ARGV[i], ARGV[i + 1], ARGV[i + 2])
  i = i + 3
end
`)

// scriptPending returns the heads of a sink that may be sent, the oldest first.
//
//	KEYS as all of the outbox
//	ARGV 1 sink, 2 now (20 digits), 3 how many
//	returns for each: document, meta
var scriptPending = redis.NewScript(luaOutbox + `
local prefix, heads = ARGV[1] .. '\0', {}
local function take(members, from)
  for _, e in ipairs(members) do heads[#heads + 1] = {tonumber(string.sub(e, from, from + 15)), string.sub(e, from + 16)} end
end
take(redis.call('ZRANGEBYLEX', READY, '[' .. prefix, '(' .. ARGV[1] .. '\1', 'LIMIT', 0, ARGV[3]), #prefix + 1)
take(redis.call('ZRANGEBYLEX', LATER, '[' .. prefix, '(' .. prefix .. ARGV[2] .. '\255'), #prefix + 21)
table.sort(heads, function(a, b) return a[1] < b[1] end)
local out = {}
for i = 1, math.min(#heads, tonumber(ARGV[3])) do
  out[#out + 1] = redis.call('HGET', EVENTS, heads[i][2])
  out[#out + 1] = redis.call('HGET', META, heads[i][2])
end
return out
`)

// scriptSettle writes what became of deliveries that are open.
//
//	KEYS as all of the outbox
//	ARGV for each: id, sink, state, attempts, not before, settled, error
//	returns how many were open
var scriptSettle = redis.NewScript(luaOutbox + `
local n = 0
for i = 1, #ARGV, 7 do
  local id, sink = ARGV[i], ARGV[i + 1]
  local m = meta(id)
  if m and m.d[sink] and m.d[sink].s == '' then
    part(sink, id, m)
    m.d[sink] = {s = ARGV[i + 2], a = tonumber(ARGV[i + 3]), n = ARGV[i + 4], e = ARGV[i + 5], r = ARGV[i + 6]}
    keep(id, m)
    join(sink, id, m)
    n = n + 1
  end
end
return n
`)

// scriptReplay opens settled deliveries again.
//
//	KEYS as all of the outbox
//	ARGV 1 id, or empty: all that are dead
//	returns how many, or -1 when there is no such event
var scriptReplay = redis.NewScript(luaOutbox + `
local n = 0
local function reopen(sink, id, m)
  part(sink, id, m)
  m.d[sink] = fresh()
  keep(id, m)
  join(sink, id, m)
  n = n + 1
end
if ARGV[1] == '' then
  for _, e in ipairs(redis.call('ZRANGE', DEAD, 0, -1)) do
    local sink = string.match(e, '^%Z*')
    local id = string.sub(e, #sink + 18)
    reopen(sink, id, meta(id))
  end
  return n
end
local m = meta(ARGV[1])
if not m then return -1 end
local sinks = {}
for sink, d in pairs(m.d) do if d.s ~= '' then sinks[#sinks + 1] = sink end end
for _, sink in ipairs(sinks) do reopen(sink, ARGV[1], m) end
return n
`)

// scriptBacklogs counts deliveries that are open and dead.
//
//	KEYS as all of the outbox
//	returns for each sink: name, open, dead
var scriptBacklogs = redis.NewScript(luaOutbox + `
local out = {}
for _, sink in ipairs(redis.call('SMEMBERS', SINKS)) do
  out[#out + 1] = sink
  for _, set in ipairs({LINE, DEAD}) do out[#out + 1] = redis.call('ZLEXCOUNT', set, '[' .. sink .. '\0', '(' .. sink .. '\1') end
end
return out
`)

// scriptForgetEvents removes events from before a time that have no open and no dead
// delivery, and all from before another.
//
//	KEYS as all of the outbox
//	ARGV 1 the first time, 2 the other, 3 after which member of events.at ("": all),
//	4 how many are looked at
//	returns the last member that was looked at, empty when there are no more
var scriptForgetEvents = redis.NewScript(luaOutbox + `
local last = ARGV[1]
if ARGV[2] > last then last = ARGV[2] end
local from = '-'
if ARGV[3] ~= '' then from = '(' .. ARGV[3] end
local members = redis.call('ZRANGEBYLEX', AT, from, '(' .. last, 'LIMIT', 0, ARGV[4])
for _, e in ipairs(members) do
  local at, id = string.sub(e, 1, 20), string.sub(e, 21)
  local m, done = meta(id), at < ARGV[1]
  for _, d in pairs(m.d) do done = done and d.s == 'done' end
  if done or at < ARGV[2] then
    for sink in pairs(m.d) do part(sink, id, m) end
    redis.call('HDEL', EVENTS, id)
    redis.call('HDEL', META, id)
    redis.call('ZREM', SEQ, id)
    redis.call('ZREM', AT, e)
    if m.c ~= '' then redis.call('ZREM', CAUSES, m.c .. '\0' .. m.q .. id) end
  end
end
if #members < tonumber(ARGV[4]) then return '' end
return members[#members]
`)

// scriptEvents returns events with their deliveries, as they are at one moment.
//
//	KEYS as all of the outbox
//	ARGV ids
//	returns for each that is there: document, meta
var scriptEvents = redis.NewScript(luaOutbox + `
local out = {}
for _, id in ipairs(ARGV) do
  local doc = redis.call('HGET', EVENTS, id)
  if doc then
    out[#out + 1] = doc
    out[#out + 1] = redis.call('HGET', META, id)
  end
end
return out
`)

// scriptDueMarks returns marks whose time has come, the earliest first.
//
//	KEYS as all of the outbox
//	ARGV 1 now (20 digits), 2 how many
//	returns for each: key, due and document
var scriptDueMarks = redis.NewScript(luaOutbox + `
local out = {}
for _, e in ipairs(redis.call('ZRANGEBYLEX', DUE, '-', '(' .. ARGV[1] .. '\255', 'LIMIT', 0, ARGV[2])) do
  out[#out + 1] = string.sub(e, 21)
  out[#out + 1] = redis.call('HGET', MARKS, out[#out])
end
return out
`)

// scriptLoadEvents appends events that are not there, and replaces the deliveries of
// all of them.
//
//	KEYS as all of the outbox
//	ARGV for each: id, time, cause, order, document, how many deliveries, and for each
//	of those: sink, state, attempts, not before, settled, error
//	returns nothing
var scriptLoadEvents = redis.NewScript(luaOutbox + `
local i = 1
while i <= #ARGV do
  local id, n = ARGV[i], tonumber(ARGV[i + 5])
  local m = append(id, ARGV[i + 1], ARGV[i + 2], ARGV[i + 3], ARGV[i + 4]) or meta(id)
  for sink in pairs(m.d) do part(sink, id, m) end
  m.d = {}
  for d = i + 6, i + 5 + 6 * n, 6 do
    local sink = ARGV[d]
    m.d[sink] = {s = ARGV[d + 1], a = tonumber(ARGV[d + 2]), n = ARGV[d + 3], e = ARGV[d + 4], r = ARGV[d + 5]}
    redis.call('SADD', SINKS, sink)
    join(sink, id, m)
  end
  keep(id, m)
  i = i + 6 + 6 * n
end
`)

// The fleet. engines is a hash: seq, latest and latest.at of the engine begun last,
// current, current.seq and at of what Advance said, untold while stamps have to move
// for it, moment and w:… (see writerField), swept. An engine is VERSION LF DATABASE LF
// NANOSECONDS; numbers are below 2^53.

// scriptBegin makes an engine the latest.
//
//	KEYS 1 engines, 2 engines.begun, 3 wanted.vulnerability, 4 engines.order
//	ARGV 1 engine, 2 digest of its database, 3 the database's time (timeText), 4 1: only if
//	     it was never begun and the latest engine's database is not newer
//	returns its number; 0 when 4 forbids it, -1 when another database is wanted
var scriptBegin = redis.NewScript(luaFenced + `
if redis.call('HGET', KEYS[1], 'latest') == ARGV[1] then return tonumber(redis.call('HGET', KEYS[1], 'seq')) end
if fenced(KEYS[3], ARGV[2]) then return -1 end
if ARGV[4] == '1' then
  if redis.call('HEXISTS', KEYS[2], ARGV[1]) == 1 then return 0 end
  local latest = redis.call('HGET', KEYS[1], 'latest.at')
  if latest and latest > ARGV[3] then return 0 end
end
local seq = redis.call('HINCRBY', KEYS[1], 'seq', 1)
redis.call('HSET', KEYS[1], 'latest', ARGV[1], 'latest.at', ARGV[3])
redis.call('HSET', KEYS[2], ARGV[1], seq)
redis.call('HSET', KEYS[4], seq, ARGV[1])
return seq
`)

// scriptFence keeps what engines before a number say from being stored in a partition.
//
//	KEYS 1 fence
//	ARGV 1 number
//	returns nothing
var scriptFence = redis.NewScript(`
if tonumber(redis.call('GET', KEYS[1]) or '0') < tonumber(ARGV[1]) then redis.call('SET', KEYS[1], ARGV[1]) end
`)

// scriptAdvance makes everything current with the latest engine.
//
//	KEYS 1 engines
//	ARGV 1 engine, 2 time (nanoseconds), 3 word that stamps have to move
//	returns its number, or 0 when it is not the latest
var scriptAdvance = redis.NewScript(`
if redis.call('HGET', KEYS[1], 'latest') ~= ARGV[1] then return 0 end
local seq = redis.call('HGET', KEYS[1], 'seq')
redis.call('HSET', KEYS[1], 'current', ARGV[1], 'current.seq', seq, 'at', ARGV[2], 'untold', ARGV[3])
return tonumber(seq)
`)

// scriptTold takes words away that stamps have to move, unless there are newer ones.
//
//	KEYS 1 engines, or untold of a partition
//	ARGV field and word, again and again
//	returns 1
var scriptTold = redis.NewScript(`
for i = 1, #ARGV, 2 do
  if redis.call('HGET', KEYS[1], ARGV[i]) == ARGV[i + 1] then redis.call('HDEL', KEYS[1], ARGV[i]) end
end
return 1
`)

// scriptWritten ends the writing of histories.
//
//	KEYS 1 engines
//	ARGV 1 field of the writer ("": none), 2 the moment from now on
//	returns 1
var scriptWritten = redis.NewScript(`
if ARGV[1] ~= '' then redis.call('HDEL', KEYS[1], ARGV[1]) end
redis.call('HSET', KEYS[1], 'moment', ARGV[2])
return 1
`)

// scriptSay stores what an engine said of components of one partition. Documents begin
// with a token of 8 bytes (fleet_docs.go); one that has the call's own token was stored by
// the same call, which was sent again.
//
//	KEYS 1 matches, 2 fence, 3 untold, 4 strays.NUMBER
//	ARGV 1 number of the engine, 2 token, 3 word that stamps have to move, 4 1: the
//	     engine is not current, then for each component its hash, the token that was read
//	     ("": none), the document without its token, and "": only the engine is another;
//	     f: the first word on it; c: something else stood before
//	returns the numbers, from 1, of components that have another token and were not
//	     stored; {-1} when an engine was begun after this one, and nothing was stored
var scriptSay = redis.NewScript(`
local seq, fence = tonumber(ARGV[1]), tonumber(redis.call('GET', KEYS[2]) or '0')
if seq < fence then return {-1} end
if seq > fence then redis.call('SET', KEYS[2], ARGV[1]) end
local moved = {}
for i = 5, #ARGV, 4 do
  local v = redis.call('HGET', KEYS[1], ARGV[i])
  local token = v and string.sub(v, 1, 8) or ''
  if token == ARGV[i + 1] then
    redis.call('HSET', KEYS[1], ARGV[i], ARGV[2] .. ARGV[i + 2])
    if ARGV[i + 3] ~= '' then redis.call('HSET', KEYS[3], ARGV[i], ARGV[3]) end
    if ARGV[4] == '1' then redis.call('SADD', KEYS[4], ARGV[i]) end
  elseif token ~= ARGV[2] then
    moved[#moved + 1] = (i - 1) / 4
  end
end
return moved
`)

// scriptSwap replaces a document that begins with a token.
//
//	KEYS 1 hash
//	ARGV 1 field, 2 token that was read ("": not there), 3 document
//	returns 1, or 0 when it has another token
var scriptSwap = redis.NewScript(`
local v = redis.call('HGET', KEYS[1], ARGV[1])
local token = v and string.sub(v, 1, 8) or ''
if token == string.sub(ARGV[3], 1, 8) then return 1 end
if token ~= ARGV[2] then return 0 end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[3])
return 1
`)

// scriptLinkChunk puts an image's name into a chunk.
//
//	KEYS 1 chunks, 2 chunk.images.HASH
//	ARGV 1 hash, 2 image (short), 3 number that it is linked under, 4 the chunk, "" when
//	     it should be there
//	returns 1, or 0 when it is not there
var scriptLinkChunk = redis.NewScript(`
if redis.call('HEXISTS', KEYS[1], ARGV[1]) == 0 then
  if ARGV[4] == '' then return 0 end
  redis.call('HSET', KEYS[1], ARGV[1], ARGV[4])
end
if tonumber(redis.call('HGET', KEYS[2], ARGV[2]) or '0') < tonumber(ARGV[3]) then redis.call('HSET', KEYS[2], ARGV[2], ARGV[3]) end
return 1
`)

// scriptUnlinkChunk takes an image's name out of a chunk, which goes with the last one.
//
//	KEYS 1 chunks, 2 chunk.images.HASH
//	ARGV 1 hash, 2 image (short), 3 number that it is linked under: a later one stays
//	returns nothing
var scriptUnlinkChunk = redis.NewScript(`
local number = redis.call('HGET', KEYS[2], ARGV[2])
if number and tonumber(number) > tonumber(ARGV[3]) then return end
if number then redis.call('HDEL', KEYS[2], ARGV[2]) end
if redis.call('EXISTS', KEYS[2]) == 0 then redis.call('HDEL', KEYS[1], ARGV[1]) end
`)

// scriptPutReport replaces the report on an image, and which occurrences are in force.
//
//	KEYS 1 version, 2 scanned, 3 reports
//	ARGV 1 channel, 2 number of the partition, 3 digest, 4 digest (short), 5 token of the
//	     report that was read ("": none), 6 document, 7 token of the occurrences that were
//	     read, 8 document ("": they stay)
//	returns 1, or 0 when one of them has another token
var scriptPutReport = redis.NewScript(luaChanged + `
local function token(key)
  local v = redis.call('HGET', key, ARGV[4])
  return v and string.sub(v, 1, 8) or ''
end
local stands = token(KEYS[3])
if stands == string.sub(ARGV[6], 1, 8) then return 1 end
if stands ~= ARGV[5] then return 0 end
if ARGV[8] ~= '' then
  if token(KEYS[2]) ~= ARGV[7] then return 0 end
  redis.call('HSET', KEYS[2], ARGV[4], ARGV[8])
end
redis.call('HSET', KEYS[3], ARGV[4], ARGV[6])
changed(KEYS[1], ARGV[1], ARGV[2], {ARGV[3]})
return 1
`)
