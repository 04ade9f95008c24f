'use strict'
// Deduplication for Haraka: claim (Message-ID, recipient) in Redis before the message goes on,
// confirm it once the next server has accepted it, release it if it has not.

const { createHash } = require('node:crypto')

const LEASE_S = 1200
const WINDOW_S = 5 * 86400

exports.register = function () {
    this.register_hook('rcpt', 'accept')
    this.register_hook('queue', 'claim')
    this.register_hook('queue_ok', 'confirm')
    this.register_hook('deny', 'release')
}

// Haraka leaves Nagle's algorithm on, and each message then waits 40 ms for a delayed ACK. Off on
// request, to see what Haraka costs without it.
function push(socket) {
    const raw = socket?.targetsocket ?? socket
    raw?.setNoDelay?.(true)
}

exports.accept = function (next, connection) {
    if (process.env.BENCH_NO_DELAY) {
        push(connection.client)
        push(connection.notes.smtp_client?.socket)
    }
    next(OK)
}

function keys_of(transaction) {
    const id = transaction.header.get('Message-ID').trim()
    if (!id) return []
    return transaction.rcpt_to.map(
        (rcpt) => `h:${createHash('sha1').update(`${id} ${rcpt.format()}`).digest('base64')}`,
    )
}

exports.claim = async function (next, connection) {
    const { transaction } = connection
    const keys = keys_of(transaction)
    if (!keys.length) return next()
    try {
        const batch = server.notes.redis.multi()
        for (const key of keys) batch.set(key, `C${transaction.uuid}`, { NX: true, GET: true, EX: LEASE_S })
        const found = await batch.execAsPipeline()
        transaction.notes.claimed = keys.filter((_, index) => found[index] === null)
        if (found.every((value) => value?.startsWith('D'))) {
            // DATA has been said to the next server already: only a cut leaves the message unsent.
            const { smtp_client } = connection.notes
            delete connection.notes.smtp_client
            smtp_client?.destroy()
            return next(OK, 'duplicate')
        }
    } catch (error) {
        connection.logerror(this, `Redis: ${error.message}`)
    }
    next()
}

exports.confirm = async function (next, connection) {
    const { claimed } = connection.transaction.notes
    if (!claimed?.length) return next()
    try {
        const batch = server.notes.redis.multi()
        for (const key of claimed) batch.set(key, `D${Date.now()}`, { EX: WINDOW_S })
        await batch.execAsPipeline()
    } catch (error) {
        connection.logerror(this, `Redis: ${error.message}`)
    }
    next()
}

exports.release = async function (next, connection) {
    const claimed = connection.transaction?.notes.claimed
    if (claimed?.length) await server.notes.redis.del(claimed).catch(() => {})
    next()
}
