/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Tells ThreadSanitizer what GLib's locks order.
 *
 * GLib's mutexes are futexes of its own, in a library that is not instrumented: TSan does not see
 * them, and would report everything that they protect. To suppress that by the library's name
 * would hide real races, as each GThread has GLib in its stack. So these few functions stand
 * before GLib's in the order of symbols, call them, and say who hands over to whom. Linked into
 * TSan builds only (meson.build).
 */
#include <dlfcn.h>
#include <glib.h>

/* The compiler's run-time library; it has no header in gcc 12. */
void __tsan_acquire(void *address);
void __tsan_release(void *address);

#define REAL(name) ((__typeof__(&name))real_function(#name))

static void *real_function(const char *name)
{
    void *function = dlsym(RTLD_NEXT, name);
    if (!function)
        __builtin_trap();
    return function;
}

void g_mutex_lock(GMutex *mutex)
{
    REAL(g_mutex_lock)(mutex);
    __tsan_acquire(mutex);
}

gboolean g_mutex_trylock(GMutex *mutex)
{
    gboolean locked = REAL(g_mutex_trylock)(mutex);
    if (locked)
        __tsan_acquire(mutex);
    return locked;
}

void g_mutex_unlock(GMutex *mutex)
{
    __tsan_release(mutex);
    REAL(g_mutex_unlock)(mutex);
}

void g_cond_wait(GCond *cond, GMutex *mutex)
{
    __tsan_release(mutex);
    REAL(g_cond_wait)(cond, mutex);
    __tsan_acquire(mutex);
}

gboolean g_cond_wait_until(GCond *cond, GMutex *mutex, gint64 end)
{
    __tsan_release(mutex);
    gboolean signalled = REAL(g_cond_wait_until)(cond, mutex, end);
    __tsan_acquire(mutex);
    return signalled;
}

void g_async_queue_push(GAsyncQueue *queue, gpointer data)
{
    __tsan_release(queue);
    REAL(g_async_queue_push)(queue, data);
}

static gpointer popped(GAsyncQueue *queue, gpointer data)
{
    if (data)
        __tsan_acquire(queue);
    return data;
}

gpointer g_async_queue_pop(GAsyncQueue *queue)
{
    return popped(queue, REAL(g_async_queue_pop)(queue));
}

gpointer g_async_queue_try_pop(GAsyncQueue *queue)
{
    return popped(queue, REAL(g_async_queue_try_pop)(queue));
}

gpointer g_async_queue_timeout_pop(GAsyncQueue *queue, guint64 timeout)
{
    return popped(queue, REAL(g_async_queue_timeout_pop)(queue, timeout));
}

gboolean(g_atomic_ref_count_dec)(gatomicrefcount *count)
{
    /* The thread that drops the last reference sees what the others did before they dropped
     * theirs. */
    __tsan_release((void *)count);
    gboolean last = REAL(g_atomic_ref_count_dec)(count);
    __tsan_acquire((void *)count);
    return last;
}

void(g_once_init_leave)(volatile void *location, gsize result)
{
    __tsan_release((void *)location);
    REAL(g_once_init_leave)(location, result);
}

/* A function that another thread's main loop runs sees what its sender did before. */
typedef struct {
    GSourceFunc function;
    gpointer data;
    GDestroyNotify notify;
} Call;

static gboolean run_call(gpointer data)
{
    Call *call = data;
    __tsan_acquire(call);
    return call->function(call->data);
}

static void free_call(gpointer data)
{
    Call *call = data;
    __tsan_acquire(call);
    if (call->notify)
        call->notify(call->data);
    g_free(call);
}

void g_main_context_invoke_full(GMainContext *context, gint priority, GSourceFunc function,
                                gpointer data, GDestroyNotify notify)
{
    Call *call = g_new(Call, 1);
    *call = (Call){function, data, notify};
    __tsan_release(call);
    REAL(g_main_context_invoke_full)(context, priority, run_call, call, free_call);
}

void g_main_context_invoke(GMainContext *context, GSourceFunc function, gpointer data)
{
    g_main_context_invoke_full(context, G_PRIORITY_DEFAULT, function, data, NULL);
}
