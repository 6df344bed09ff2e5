/* libwebsockets, as server and client: suite/main.py describes the command line and the scenarios.
 *
 * One thread serves all connections. Each has a queue of what it sends. A client has besides a list
 * of the messages that it expects, and sends the next one of its queue after each that arrives. */

#include <libwebsockets.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#define MIB ((size_t)1 << 20)
#define FLOOD 10000
#define FRAGMENTED "in several frames: é 你 🚀"
#define PAYLOAD "are you there"

/* A frame, or a message that was received or is expected. */
struct frame {
    struct frame *next;
    /* Of lws_write; LWS_WRITE_PONG is for a pong that is expected. */
    int kind;
    size_t length;
    unsigned char bytes[]; /* LWS_PRE bytes for the library, then those of the frame. */
};

struct queue {
    struct frame *first, *last;
};

enum end { END_NONE, END_CLOSE, END_ABRUPT };

struct connection {
    char path[128];
    struct queue sending;
    /* What a server does when the queue is empty. */
    enum end end;
    int close_code;
    char close_reason[124];
    /* The parts of the message that is being received, without their room for the library. */
    unsigned char *received;
    size_t received_length, received_room;
    /* The messages of a flood that have arrived. */
    int count;
};

static struct lws_context *context;
static bool is_server;

/* The client. */
static struct {
    const char *scenario;
    struct queue expected;
    /* Whether it sends all at once. */
    bool flood;
    const char *header;
    /* The end that it expects, or END_CLOSE if it closes itself. */
    enum end end;
    int peer_close_code;
    char peer_close_reason[124];
    bool peer_has_closed;
    bool done;
    bool closing;
    char wrong[300];
} client;

static struct connection the_client;

static void fail(const char *format, ...) {
    va_list arguments;
    if (client.wrong[0]) return;
    va_start(arguments, format);
    vsnprintf(client.wrong, sizeof client.wrong, format, arguments);
    va_end(arguments);
    client.done = true;
}

static struct frame *new_frame(int kind, const void *bytes, size_t length) {
    struct frame *frame = malloc(sizeof *frame + LWS_PRE + length);
    if (!frame) abort();
    frame->next = NULL;
    frame->kind = kind;
    frame->length = length;
    memcpy(frame->bytes + LWS_PRE, bytes, length);
    return frame;
}

static void push(struct queue *queue, struct frame *frame) {
    if (queue->last)
        queue->last->next = frame;
    else
        queue->first = frame;
    queue->last = frame;
}

static struct frame *pop(struct queue *queue) {
    struct frame *frame = queue->first;
    if (!frame) return NULL;
    queue->first = frame->next;
    if (!queue->first) queue->last = NULL;
    return frame;
}

static void add(struct queue *queue, int kind, const void *bytes, size_t length) {
    push(queue, new_frame(kind, bytes, length));
}

static void add_text(struct queue *queue, const char *text) {
    add(queue, LWS_WRITE_TEXT, text, strlen(text));
}

static void add_number(struct queue *queue, int number) {
    char text[16];
    snprintf(text, sizeof text, "%d", number);
    add_text(queue, text);
}

/* One message, a frame for each part. `ends` has where the parts end. */
static void add_parts(struct queue *queue, int kind, const void *bytes, const size_t *ends,
                      int parts) {
    size_t from = 0;
    for (int part = 0; part < parts; part++) {
        int flags = part == 0 ? kind : LWS_WRITE_CONTINUATION;
        if (part < parts - 1) flags |= LWS_WRITE_NO_FIN;
        add(queue, flags, (const char *)bytes + from, ends[part] - from);
        from = ends[part];
    }
}

/* Bytes that differ from those 256 places before. */
static unsigned char *new_bytes(size_t length) {
    unsigned char *bytes = malloc(length + 1);
    if (!bytes) abort();
    for (size_t n = 0; n < length; n++) bytes[n] = (unsigned char)(n ^ (n >> 8));
    return bytes;
}

static void add_fragmented(struct queue *queue) {
    /* The characters é and 🚀 are each in two frames, and one frame is empty. */
    const size_t text[] = {3, 20, 28, strlen(FRAGMENTED)}, binary[] = {1, 1, 200, 256};
    unsigned char *bytes = new_bytes(256);
    add_parts(queue, LWS_WRITE_TEXT, FRAGMENTED, text, 4);
    add_parts(queue, LWS_WRITE_BINARY, bytes, binary, 4);
    free(bytes);
}

static void expect_fragmented(struct queue *queue) {
    unsigned char *bytes = new_bytes(256);
    add_text(queue, FRAGMENTED);
    add(queue, LWS_WRITE_BINARY, bytes, 256);
    free(bytes);
}

/* ------------------------------------------------------------------------------------------------
 * The server. */

static void unescape(char *to, size_t size, const char *from) {
    size_t length = 0;
    while (*from && length + 1 < size) {
        unsigned int byte;
        if (*from == '%' && sscanf(from + 1, "%2x", &byte) == 1) {
            to[length++] = (char)byte;
            from += 3;
        } else {
            to[length++] = *from++;
        }
    }
    to[length] = 0;
}

static void begin(struct lws *wsi, struct connection *connection) {
    const char *path = connection->path;
    struct queue *sending = &connection->sending;
    if (!strncmp(path, "/close/", 7)) {
        char *reason;
        connection->end = END_CLOSE;
        connection->close_code = (int)strtol(path + 7, &reason, 10);
        unescape(connection->close_reason, sizeof connection->close_reason,
                 *reason ? reason + 1 : reason);
    } else if (!strcmp(path, "/abrupt")) {
        connection->end = END_ABRUPT;
        add_text(sending, "last words");
    } else if (!strcmp(path, "/ping")) {
        add(sending, LWS_WRITE_PING, PAYLOAD, strlen(PAYLOAD));
    } else if (!strcmp(path, "/subprotocol")) {
        add_text(sending, lws_get_protocol(wsi)->name);
    } else if (!strcmp(path, "/fragmented")) {
        add_fragmented(sending);
    } else if (!strcmp(path, "/flood")) {
        for (int n = 0; n < FLOOD; n++) add_number(sending, n);
    } else if (strcmp(path, "/echo") && strcmp(path, "/wait")) {
        connection->end = END_CLOSE;
        connection->close_code = 4404;
    }
    lws_callback_on_writable(wsi);
}

static void server_message(struct connection *connection, struct frame *message) {
    if (!strcmp(connection->path, "/echo")) {
        push(&connection->sending, message);
        return;
    }
    if (!strcmp(connection->path, "/flood")) {
        char expected[16];
        int length = snprintf(expected, sizeof expected, "%d", connection->count);
        if (message->kind != LWS_WRITE_TEXT || message->length != (size_t)length ||
            memcmp(message->bytes + LWS_PRE, expected, length)) {
            connection->end = END_CLOSE;
            connection->close_code = 4000;
        } else if (++connection->count == FLOOD) {
            add_number(&connection->sending, FLOOD);
        }
    }
    free(message);
}

/* ------------------------------------------------------------------------------------------------
 * The client. */

static const char *const json[] = {
    "{}", "1.0", "-0", "1e400", "0.1e-7", "18446744073709551616",
    "[9007199254740993, 123456789012345678901234567890]", "{\"a\":1,\"a\":2}",
    "{ \"b\" : 1.0,\t\"a\":[ ] }", " [1]\r\n", "\"\\ud800\"", "\"\\u0000\\/\\u00e9\"",
    "NaN", "{\"not\": JSON", NULL,
};

static const char *const unicode[] = {
    "¡hola! 你好 привет", "👩🏽\u200d🚀", "e\u0301", "\ufeffafter a byte order mark",
    "\xed\x9f\xbf\xee\x80\x80\xef\xbf\xbf\xf0\x90\x80\x80\xf4\x8f\xbf\xbf", "\r\n\t\x7f", NULL,
};

static void echo(int kind, const void *bytes, size_t length) {
    add(&the_client.sending, kind, bytes, length);
    add(&client.expected, kind, bytes, length);
}

static void echo_texts(const char *const *texts) {
    for (; *texts; texts++) echo(LWS_WRITE_TEXT, *texts, strlen(*texts));
}

static void echo_nested(void) {
    char text[200];
    memset(text, '[', 100);
    memset(text + 100, ']', 100);
    echo(LWS_WRITE_TEXT, text, sizeof text);
}

static void echo_bytes(size_t length) {
    unsigned char *bytes = new_bytes(length);
    echo(LWS_WRITE_BINARY, bytes, length);
    free(bytes);
}

static void echo_sizes(void) {
    static const size_t sizes[] = {0, 1, 125, 126, 65535, 65536};
    char *text = malloc(65536);
    if (!text) abort();
    for (int n = 0; n < 65536; n++) text[n] = (char)('a' + n % 26);
    for (int n = 0; n < 6; n++) {
        echo(LWS_WRITE_TEXT, text, sizes[n]);
        echo_bytes(sizes[n]);
    }
    free(text);
}

static void ping(const char *payload) {
    add(&the_client.sending, LWS_WRITE_PING, payload, strlen(payload));
    add(&client.expected, LWS_WRITE_PONG, payload, strlen(payload));
}

/* Fills the queues for the scenario, and returns its path. */
static const char *prepare(const char *scenario) {
    struct queue *expected = &client.expected;
    client.scenario = scenario;
    client.end = END_CLOSE;
    the_client.close_code = 1000;
    if (!strcmp(scenario, "json")) {
        echo_texts(json);
        echo_nested();
    } else if (!strcmp(scenario, "unicode")) {
        echo_texts(unicode);
        echo(LWS_WRITE_TEXT, "a\0b", 3);
    } else if (!strcmp(scenario, "sizes")) {
        echo_sizes();
    } else if (!strcmp(scenario, "empty")) {
        echo(LWS_WRITE_TEXT, "", 0);
        echo(LWS_WRITE_BINARY, "", 0);
    } else if (!strcmp(scenario, "binary-1MiB")) {
        echo_bytes(MIB);
    } else if (!strcmp(scenario, "binary-16MiB")) {
        echo_bytes(16 * MIB);
    } else if (!strcmp(scenario, "fragments")) {
        add_fragmented(&the_client.sending);
        expect_fragmented(expected);
        client.flood = true; /* Its frames are sent without waiting for messages. */
    } else if (!strcmp(scenario, "ping")) {
        char longest[126] = "";
        memset(longest, 'x', 125);
        ping("");
        ping(PAYLOAD);
        ping(longest);
        echo(LWS_WRITE_TEXT, "after the pongs", 15);
    } else if (!strcmp(scenario, "fragmented")) {
        expect_fragmented(expected);
        return "/fragmented";
    } else if (!strcmp(scenario, "pinged")) {
        add_text(expected, "pong");
        return "/ping";
    } else if (!strcmp(scenario, "close-by-server")) {
        client.end = END_NONE;
        return "/close/4001/bye%20%E2%9C%93";
    } else if (!strcmp(scenario, "close-by-client")) {
        the_client.close_code = 4002;
        strcpy(the_client.close_reason, "done ✓");
        return "/wait";
    } else if (!strcmp(scenario, "abrupt")) {
        client.end = END_ABRUPT;
        add_text(expected, "last words");
        return "/abrupt";
    } else if (!strcmp(scenario, "subprotocol")) {
        add_text(expected, "second");
        return "/subprotocol";
    } else if (!strcmp(scenario, "headers")) {
        return "/headers";
    } else if (!strcmp(scenario, "flood")) {
        client.flood = true;
        for (int n = 0; n < FLOOD; n++) {
            add_number(&the_client.sending, n);
            add_number(expected, n);
        }
        add_number(expected, FLOOD);
        return "/flood";
    } else {
        fail("there is no scenario %s", scenario);
    }
    return "/echo";
}

/* Sends the next one, or closes after the last. */
static void go_on(struct lws *wsi) {
    if (!client.expected.first && strcmp(client.scenario, "headers") &&
        client.end == END_CLOSE) {
        client.closing = true;
        the_client.end = END_CLOSE;
    }
    lws_callback_on_writable(wsi);
}

static void client_message(struct lws *wsi, struct frame *message) {
    struct frame *expected = pop(&client.expected);
    if (!strcmp(client.scenario, "headers")) {
        message->bytes[LWS_PRE + message->length - 1] = 0;
        if (!strstr((char *)message->bytes + LWS_PRE, "\"x-robot\":\"7\""))
            fail("the server received %.200s", (char *)message->bytes + LWS_PRE);
        client.scenario = "";
    } else if (!expected) {
        fail("one message too many, of %zu bytes", message->length);
    } else if (message->kind != expected->kind || message->length != expected->length ||
               memcmp(message->bytes + LWS_PRE, expected->bytes + LWS_PRE, message->length)) {
        fail("expected %zu bytes of kind %d, received %zu of kind %d", expected->length,
             expected->kind, message->length, message->kind);
    }
    free(expected);
    free(message);
    go_on(wsi);
}

static void client_closed(void) {
    if (client.expected.first)
        fail("the connection has ended before all messages have come");
    else if (client.end == END_NONE &&
             (client.peer_close_code != 4001 || strcmp(client.peer_close_reason, "bye ✓")))
        fail("closed with %d %s", client.peer_close_code, client.peer_close_reason);
    else if (client.end == END_ABRUPT && client.peer_has_closed)
        fail("there was a Close frame, with %d", client.peer_close_code);
    else if (client.end == END_CLOSE && !client.closing)
        fail("the connection has ended before this side closed");
    client.done = true;
}

/* ------------------------------------------------------------------------------------------------
 * Both. */

/* Called with each part of a message. */
static void receive(struct lws *wsi, struct connection *connection, void *in, size_t length) {
    if (connection->received_length + length >= connection->received_room) {
        connection->received_room = 2 * (connection->received_length + length) + 1;
        connection->received = realloc(connection->received, connection->received_room);
        if (!connection->received) abort();
    }
    memcpy(connection->received + connection->received_length, in, length);
    connection->received_length += length;
    if (!lws_is_final_fragment(wsi) || lws_remaining_packet_payload(wsi)) return;
    struct frame *message =
        new_frame(lws_frame_is_binary(wsi) ? LWS_WRITE_BINARY : LWS_WRITE_TEXT,
                  connection->received, connection->received_length);
    free(connection->received);
    connection->received = NULL;
    connection->received_length = connection->received_room = 0;
    if (is_server) {
        server_message(connection, message);
        lws_callback_on_writable(wsi);
    } else {
        client_message(wsi, message);
    }
}

/* Sends the next frame of the queue. Returns -1 if the connection has to be closed. */
static int writable(struct lws *wsi, struct connection *connection) {
    struct frame *frame = pop(&connection->sending);
    if (frame) {
        int kind = frame->kind, written;
        written = lws_write(wsi, frame->bytes + LWS_PRE, frame->length, kind);
        bool wrong = written < (int)frame->length;
        free(frame);
        if (wrong) return -1;
        if (is_server || client.flood || kind & LWS_WRITE_NO_FIN) lws_callback_on_writable(wsi);
        return 0;
    }
    switch (connection->end) {
    case END_NONE:
        return 0;
    case END_CLOSE:
        lws_close_reason(wsi, connection->close_code, (unsigned char *)connection->close_reason,
                         strlen(connection->close_reason));
        return -1;
    case END_ABRUPT:
        /* What was sent goes first. The library sends nothing more, not even a Close frame. */
        shutdown(lws_get_socket_fd(wsi), SHUT_RDWR);
        return 0;
    }
    return 0;
}

static void peer_closes(const struct connection *connection, const unsigned char *in,
                        size_t length) {
    int code = length >= 2 ? in[0] << 8 | in[1] : 1005;
    int reason = length >= 2 ? (int)length - 2 : 0;
    if (is_server) {
        if (strcmp(connection->path, "/wait")) return;
        printf("closed %d %.*s\n", code, reason, (const char *)in + 2);
        fflush(stdout);
    } else {
        client.peer_has_closed = true;
        client.peer_close_code = code;
        snprintf(client.peer_close_reason, sizeof client.peer_close_reason, "%.*s", reason,
                 (const char *)in + 2);
    }
}

static int callback(struct lws *wsi, enum lws_callback_reasons reason, void *user, void *in,
                    size_t length) {
    struct connection *connection = is_server ? user : &the_client;
    switch (reason) {
    case LWS_CALLBACK_ESTABLISHED:
        memset(connection, 0, sizeof *connection);
        lws_hdr_copy(wsi, connection->path, sizeof connection->path, WSI_TOKEN_GET_URI);
        begin(wsi, connection);
        return 0;
    case LWS_CALLBACK_CLIENT_APPEND_HANDSHAKE_HEADER:
        if (client.header) {
            char **to = in;
            *to += snprintf(*to, length, "%s\r\n", client.header);
        }
        return 0;
    case LWS_CALLBACK_CLIENT_FILTER_PRE_ESTABLISH:
        if (!strcmp(client.scenario, "subprotocol")) {
            char chosen[32] = "";
            lws_hdr_copy(wsi, chosen, sizeof chosen, WSI_TOKEN_PROTOCOL);
            if (strcmp(chosen, "second")) fail("the server chose '%s'", chosen);
        }
        return 0;
    case LWS_CALLBACK_CLIENT_ESTABLISHED:
        go_on(wsi);
        return 0;
    case LWS_CALLBACK_RECEIVE:
    case LWS_CALLBACK_CLIENT_RECEIVE:
        receive(wsi, connection, in, length);
        return 0;
    case LWS_CALLBACK_RECEIVE_PONG:
        if (!strcmp(connection->path, "/ping")) {
            if (length == strlen(PAYLOAD) && !memcmp(in, PAYLOAD, length))
                add_text(&connection->sending, "pong");
            else
                add_text(&connection->sending, "the payload is not the same");
            lws_callback_on_writable(wsi);
        }
        return 0;
    case LWS_CALLBACK_CLIENT_RECEIVE_PONG:
        client_message(wsi, new_frame(LWS_WRITE_PONG, in, length));
        return 0;
    case LWS_CALLBACK_SERVER_WRITEABLE:
    case LWS_CALLBACK_CLIENT_WRITEABLE:
        return writable(wsi, connection);
    case LWS_CALLBACK_WS_PEER_INITIATED_CLOSE:
        peer_closes(connection, in, length);
        return 0;
    case LWS_CALLBACK_CLOSED:
        for (struct frame *frame; (frame = pop(&connection->sending));) free(frame);
        free(connection->received);
        return 0;
    case LWS_CALLBACK_CLIENT_CLOSED:
        client_closed();
        return 0;
    case LWS_CALLBACK_CLIENT_CONNECTION_ERROR:
        fail("cannot connect: %s", in ? (char *)in : "no reason");
        return 0;
    default:
        return 0;
    }
}

#define PROTOCOL(name) {name, callback, sizeof(struct connection), 1 << 16, 0, NULL, 0}
static const struct lws_protocols protocols[] = {
    PROTOCOL("none"), PROTOCOL("second"), {NULL, NULL, 0, 0, 0, NULL, 0}};

static struct lws_extension extensions[] = {
    {"permessage-deflate", lws_extension_callback_pm_deflate,
     "permessage-deflate; client_max_window_bits"},
    {NULL, NULL, NULL},
};

static int serve(struct lws_context_creation_info *info, const char *listen) {
    bool is_unix = listen[0] == '/', is_tls = info->ssl_cert_filepath != NULL;
    if (is_unix) {
        info->options |= LWS_SERVER_OPTION_UNIX_SOCK;
        info->iface = listen;
    } else {
        /* Only 127.0.0.1:0 is asked for. */
        info->iface = "127.0.0.1";
    }
    info->port = 0;
    context = lws_create_context(info);
    if (!context) return 1;
    if (is_unix)
        printf("listening on ws%s+unix:%s\n", is_tls ? "s" : "", listen);
    else
        printf("listening on ws%s://127.0.0.1:%d\n", is_tls ? "s" : "",
               lws_get_vhost_listen_port(lws_get_vhost_by_name(context, "default")));
    fflush(stdout);
    while (lws_service(context, 0) >= 0) {
    }
    return 1;
}

static int run_client(struct lws_context_creation_info *info, char *url) {
    struct lws_client_connect_info to = {0};
    const char *path = prepare(client.scenario);
    char address[200];
    char *end = strrchr(url, ':');
    info->port = CONTEXT_PORT_NO_LISTEN;
    context = lws_create_context(info);
    if (!context) return 1;
    to.context = context;
    to.path = path;
    if (!strncmp(url, "ws+unix:", 8)) {
        snprintf(address, sizeof address, "+%s", url + 8);
        to.host = "localhost";
    } else {
        *end = 0;
        to.port = atoi(end + 1);
        snprintf(address, sizeof address, "%s", strstr(url, "//") + 2);
        to.host = address;
    }
    to.address = address;
    if (!strncmp(url, "wss:", 4)) to.ssl_connection = LCCSCF_USE_SSL;
    if (!strcmp(client.scenario, "subprotocol")) to.protocol = "first,second";
    if (!strcmp(client.scenario, "headers")) client.header = "X-Robot: 7";
    to.local_protocol_name = "none";
    if (!client.wrong[0] && !lws_client_connect_via_info(&to)) fail("cannot connect");
    while (!client.done && lws_service(context, 0) >= 0) {
    }
    puts(client.wrong[0] ? client.wrong : "ok");
    return client.wrong[0] ? 1 : 0;
}

int main(int count, char **arguments) {
    struct lws_context_creation_info info = {0};
    const char *listen = NULL;
    char *url = NULL;
    is_server = count > 1 && !strcmp(arguments[1], "server");
    for (int n = 2; n < count; n++) {
        bool has_value = n + 1 < count;
        if (!strcmp(arguments[n], "--listen") && has_value) {
            listen = arguments[++n];
        } else if (!strcmp(arguments[n], "--tls") && n + 2 < count) {
            info.ssl_cert_filepath = arguments[++n];
            info.ssl_private_key_filepath = arguments[++n];
        } else if (!strcmp(arguments[n], "--ca") && has_value) {
            info.client_ssl_ca_filepath = arguments[++n];
        } else if (!strcmp(arguments[n], "--deflate") && has_value) {
            info.extensions = extensions;
            n++;
        } else if (!client.scenario) {
            client.scenario = arguments[n];
        } else {
            url = arguments[n];
        }
    }
    if (is_server ? !listen : !url || !strchr(url, ':')) {
        fputs("usage: server --listen 127.0.0.1:0|/SOCKET [--tls CERT KEY] [--deflate PARAMS]\n"
              "       client SCENARIO URL [--ca FILE] [--deflate PARAMS]\n", stderr);
        return 2;
    }
    lws_set_log_level(LLL_ERR, NULL);
    info.protocols = protocols;
    info.options = LWS_SERVER_OPTION_DO_SSL_GLOBAL_INIT | LWS_SERVER_OPTION_VALIDATE_UTF8;
    return is_server ? serve(&info, listen) : run_client(&info, url);
}
