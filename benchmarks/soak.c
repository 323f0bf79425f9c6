/* Sends requests to a SavedModel through TensorFlow's C API, and checks every answer.
 *
 *   soak SAVED_MODEL REQUESTS THREADS COUNT WARM_UP MAX_GROWTH
 *
 * REQUESTS is a file that `c_runtime.write_requests` wrote: good requests with their answers, and
 * damaged ones with the answer or the refusal that each must get. THREADS threads share one
 * session. They send WARM_UP good requests, then COUNT of them, then every damaged request once,
 * each followed by a good one. Resident memory may grow by MAX_GROWTH MB after the warm-up.
 *
 * The exit status is 0 if all is right, 1 if not, and 2 if the program could not start.
 */
#include <math.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "tensorflow/c/c_api.h"
#include "tensorflow/c/tf_tstring.h"

#define SCORE_TOLERANCE 1e-5f
/* In pixels of the original image. */
#define BOX_TOLERANCE 2e-3f
#define MAX_COMPLAINTS 20

static void die(const char* format, ...) {
  va_list arguments;
  va_start(arguments, format);
  vfprintf(stderr, format, arguments);
  va_end(arguments);
  fputc('\n', stderr);
  exit(2);
}

/* The file of requests. */

typedef struct {
  const char* bytes;
  int32_t size;
} Bytes;

/* The detections in one image, best first. */
typedef struct {
  int32_t height_width[2];
  int32_t num;
  const float* scores;
  const float* boxes; /* [num, 4] */
  const int32_t* classes;
} Answer;

typedef struct {
  const char* kind;
  int32_t num_images;
  Bytes* images;
  const char* refusal; /* What the error must say; empty if the request must be answered. */
  Answer* answers;     /* One per image; NULL if the request must be refused. */
} Request;

typedef struct {
  int32_t num;
  Request* requests;
} Requests;

static void* allocate(size_t size) {
  void* memory = malloc(size ? size : 1);
  if (!memory) die("out of memory");
  return memory;
}

static char* read_file(const char* path) {
  FILE* file = fopen(path, "rb");
  if (!file) die("%s cannot be opened", path);
  fseek(file, 0, SEEK_END);
  size_t size = ftell(file);
  rewind(file);
  char* bytes = allocate(size);
  if (fread(bytes, 1, size, file) != size) die("%s cannot be read", path);
  fclose(file);
  return bytes;
}

/* The file keeps no alignment, so numbers are copied out of it. */
static const void* take(const char** at, size_t size) {
  void* copy = memcpy(allocate(size), *at, size);
  *at += size;
  return copy;
}

static int32_t take_int(const char** at) {
  int32_t value;
  memcpy(&value, *at, sizeof value);
  *at += sizeof value;
  return value;
}

static Bytes take_bytes(const char** at) {
  Bytes taken = {.size = take_int(at)};
  taken.bytes = *at;
  *at += taken.size;
  return taken;
}

static char* take_text(const char** at) {
  Bytes taken = take_bytes(at);
  char* text = memcpy(allocate(taken.size + 1), taken.bytes, taken.size);
  text[taken.size] = '\0';
  return text;
}

static Answer take_answer(const char** at) {
  Answer answer;
  answer.height_width[0] = take_int(at);
  answer.height_width[1] = take_int(at);
  answer.num = take_int(at);
  answer.scores = take(at, answer.num * sizeof(float));
  answer.boxes = take(at, answer.num * 4 * sizeof(float));
  answer.classes = take(at, answer.num * sizeof(int32_t));
  return answer;
}

static Request take_request(const char** at) {
  Request request = {.kind = take_text(at), .num_images = take_int(at)};
  request.images = allocate(request.num_images * sizeof(Bytes));
  for (int i = 0; i < request.num_images; ++i) request.images[i] = take_bytes(at);
  request.refusal = take_text(at);
  if (*request.refusal) return request;
  request.answers = allocate(request.num_images * sizeof(Answer));
  for (int i = 0; i < request.num_images; ++i) request.answers[i] = take_answer(at);
  return request;
}

static Requests take_requests(const char** at) {
  Requests taken = {.num = take_int(at)};
  taken.requests = allocate(taken.num * sizeof(Request));
  for (int i = 0; i < taken.num; ++i) taken.requests[i] = take_request(at);
  return taken;
}

/* The model. */

enum { BOXES, SCORES, CLASSES, NUM_DETECTIONS, IMAGE_SIZE, NUM_OUTPUTS };

typedef struct {
  TF_Session* session;
  TF_Output input;
  TF_Output outputs[NUM_OUTPUTS];
} Model;

static TF_Output find_tensor(TF_Graph* graph, char* name) {
  char* colon = strchr(name, ':');
  if (!colon) die("%s is not OPERATION:INDEX", name);
  *colon = '\0';
  TF_Output output = {TF_GraphOperationByName(graph, name), atoi(colon + 1)};
  if (!output.oper) die("the graph has no operation %s", name);
  return output;
}

/* Loads the folder; the file gives the names of the signature's tensors. */
static Model load_model(const char* folder, const char** at) {
  TF_Status* status = TF_NewStatus();
  TF_Graph* graph = TF_NewGraph();
  TF_SessionOptions* options = TF_NewSessionOptions();
  const char* tags[] = {"serve"};
  Model model;
  model.session =
      TF_LoadSessionFromSavedModel(options, NULL, folder, tags, 1, graph, NULL, status);
  if (TF_GetCode(status) != TF_OK) die("%s cannot be loaded: %s", folder, TF_Message(status));
  model.input = find_tensor(graph, take_text(at));
  for (int i = 0; i < NUM_OUTPUTS; ++i) model.outputs[i] = find_tensor(graph, take_text(at));
  TF_DeleteSessionOptions(options);
  TF_DeleteStatus(status);
  return model;
}

static TF_Tensor* string_batch(const Bytes* images, int32_t num) {
  int64_t dims[] = {num};
  TF_Tensor* tensor = TF_AllocateTensor(TF_STRING, dims, 1, num * sizeof(TF_TString));
  TF_TString* strings = TF_TensorData(tensor);
  for (int i = 0; i < num; ++i) {
    TF_StringInit(&strings[i]);
    TF_StringCopy(&strings[i], images[i].bytes, images[i].size);
  }
  return tensor;
}

static void delete_string_batch(TF_Tensor* tensor, int32_t num) {
  TF_TString* strings = TF_TensorData(tensor);
  for (int i = 0; i < num; ++i) TF_StringDealloc(&strings[i]);
  TF_DeleteTensor(tensor);
}

/* Checking. */

typedef enum { ANSWERED, REFUSED, WRONG, NUM_OUTCOMES } Outcome;

static atomic_int num_complaints;

/* Says why a request is wrong, on standard output: the JPEG library fills the other one. */
static Outcome complain(const Request* request, const char* format, ...) {
  if (atomic_fetch_add(&num_complaints, 1) >= MAX_COMPLAINTS) return WRONG;
  va_list arguments;
  va_start(arguments, format);
  flockfile(stdout);
  printf("wrong: %s: ", request->kind);
  vprintf(format, arguments);
  putchar('\n');
  funlockfile(stdout);
  va_end(arguments);
  return WRONG;
}

static bool is_near(const float* one, const float* other, int num, float tolerance) {
  for (int i = 0; i < num; ++i)
    if (!(fabsf(one[i] - other[i]) <= tolerance)) return false;
  return true;
}

/* Returns the detections of one image of a batch. */
static Answer answer_in(TF_Tensor* const* results, int image) {
  int64_t rows = TF_Dim(results[SCORES], 1);
  const int32_t* height_width = (const int32_t*)TF_TensorData(results[IMAGE_SIZE]) + 2 * image;
  return (Answer){
      .height_width = {height_width[0], height_width[1]},
      .num = ((const int32_t*)TF_TensorData(results[NUM_DETECTIONS]))[image],
      .scores = (const float*)TF_TensorData(results[SCORES]) + rows * image,
      .boxes = (const float*)TF_TensorData(results[BOXES]) + 4 * rows * image,
      .classes = (const int32_t*)TF_TensorData(results[CLASSES]) + rows * image,
  };
}

static bool holds_detection(const Answer* answer, const Answer* expected, int i) {
  for (int j = 0; j < answer->num; ++j)
    if (answer->classes[j] == expected->classes[i] &&
        is_near(&answer->scores[j], &expected->scores[i], 1, 2 * SCORE_TOLERANCE) &&
        is_near(&answer->boxes[4 * j], &expected->boxes[4 * i], 4, BOX_TOLERANCE))
      return true;
  return false;
}

/* Rounding may swap detections whose scores are equal, and replace the last one by its equal. */
static bool is_same(const Answer* answer, const Answer* expected) {
  int num = expected->num;
  if (answer->num != num || answer->height_width[0] != expected->height_width[0] ||
      answer->height_width[1] != expected->height_width[1] ||
      !is_near(answer->scores, expected->scores, num, SCORE_TOLERANCE))
    return false;
  for (int i = 0; i < num; ++i)
    if (expected->scores[i] > expected->scores[num - 1] + 2 * SCORE_TOLERANCE &&
        !holds_detection(answer, expected, i))
      return false;
  return true;
}

static Outcome check_answers(const Request* request, TF_Tensor* const* results) {
  if (*request->refusal) return complain(request, "answered, not refused: %s", request->refusal);
  for (int i = 0; i < request->num_images; ++i) {
    Answer answer = answer_in(results, i);
    if (!is_same(&answer, &request->answers[i]))
      return complain(request, "other detections in image %d of the batch", i);
  }
  return ANSWERED;
}

/* The error has to name the bad images, and no others, and be the fault of the client. */
static Outcome check_error(const Request* request, const TF_Status* status) {
  const char* start = strchr(TF_Message(status), '[');
  size_t size = strlen(request->refusal);
  bool is_refusal = TF_GetCode(status) == TF_INVALID_ARGUMENT && *request->refusal && start &&
                    !strncmp(start + 1, request->refusal, size) && start[1 + size] == ']';
  if (is_refusal) return REFUSED;
  int first_line = strcspn(TF_Message(status), "\n");
  return complain(request, "got status %d, %.*s; expected %s", TF_GetCode(status), first_line,
                  TF_Message(status), *request->refusal ? request->refusal : "an answer");
}

static Outcome send(const Model* model, const Request* request) {
  TF_Status* status = TF_NewStatus();
  TF_Tensor* input = string_batch(request->images, request->num_images);
  TF_Tensor* results[NUM_OUTPUTS] = {NULL};
  TF_SessionRun(model->session, NULL, &model->input, &input, 1, model->outputs, results,
                NUM_OUTPUTS, NULL, 0, NULL, status);
  delete_string_batch(input, request->num_images);
  Outcome outcome = TF_GetCode(status) == TF_OK ? check_answers(request, results)
                                                : check_error(request, status);
  for (int i = 0; i < NUM_OUTPUTS; ++i)
    if (results[i]) TF_DeleteTensor(results[i]);
  TF_DeleteStatus(status);
  return outcome;
}

/* Memory. */

static double resident_megabytes(void) {
  FILE* file = fopen("/proc/self/statm", "r");
  long pages;
  if (!file || fscanf(file, "%*d %ld", &pages) != 1) die("/proc/self/statm cannot be read");
  fclose(file);
  return (double)pages * sysconf(_SC_PAGESIZE) / (1 << 20);
}

static double report_memory(const char* when) {
  double megabytes = resident_megabytes();
  printf("%8.1f MB resident %s\n", megabytes, when);
  fflush(stdout);
  return megabytes;
}

/* Load. */

/* Every thread takes the next number until all are taken. */
typedef struct {
  const Model* model;
  const Requests* sent;
  const Requests* in_between; /* Sent after each request of `sent`; NULL for none. */
  int count;
  bool reports_memory; /* At every tenth. */
  atomic_int next;
  atomic_int (*outcomes)[NUM_OUTCOMES]; /* For every request of `sent`. */
  pthread_mutex_t lock;
  double peak_megabytes;
} Load;

static void report_progress(Load* load, int number) {
  char when[64];
  snprintf(when, sizeof when, "after %d requests", number);
  pthread_mutex_lock(&load->lock);
  load->peak_megabytes = fmax(load->peak_megabytes, report_memory(when));
  pthread_mutex_unlock(&load->lock);
}

static void* work(void* argument) {
  Load* load = argument;
  int tenth = load->count >= 10 ? load->count / 10 : 1;
  int number;
  while ((number = atomic_fetch_add(&load->next, 1)) < load->count) {
    if (load->reports_memory && number && number % tenth == 0) report_progress(load, number);
    int which = number % load->sent->num;
    Outcome outcome = send(load->model, &load->sent->requests[which]);
    if (load->in_between) {
      const Requests* good = load->in_between;
      if (send(load->model, &good->requests[number % good->num]) != ANSWERED) outcome = WRONG;
    }
    atomic_fetch_add(&load->outcomes[which][outcome], 1);
  }
  return NULL;
}

static void run(Load* load, int num_threads) {
  load->outcomes = calloc(load->sent->num, sizeof *load->outcomes);
  if (!load->outcomes) die("out of memory");
  pthread_mutex_init(&load->lock, NULL);
  pthread_t threads[num_threads];
  for (int i = 0; i < num_threads; ++i)
    if (pthread_create(&threads[i], NULL, work, load)) die("no thread could be started");
  for (int i = 0; i < num_threads; ++i) pthread_join(threads[i], NULL);
}

/* Adds up the outcomes of one kind of request, or of all if it is NULL. */
static void sum(const Load* load, const char* kind, int totals[NUM_OUTCOMES]) {
  memset(totals, 0, NUM_OUTCOMES * sizeof *totals);
  for (int i = 0; i < load->sent->num; ++i)
    for (int outcome = 0; outcome < NUM_OUTCOMES; ++outcome)
      if (!kind || !strcmp(kind, load->sent->requests[i].kind))
        totals[outcome] += atomic_load(&load->outcomes[i][outcome]);
}

static int num_wrong(const Load* load) {
  int totals[NUM_OUTCOMES];
  sum(load, NULL, totals);
  return totals[WRONG];
}

static bool is_first_of_kind(const Requests* requests, int i) {
  for (int j = 0; j < i; ++j)
    if (!strcmp(requests->requests[j].kind, requests->requests[i].kind)) return false;
  return true;
}

static void print_row(const char* name, const int totals[NUM_OUTCOMES]) {
  printf("%-32s %8d %8d %8d\n", name, totals[ANSWERED], totals[REFUSED], totals[WRONG]);
}

static void print_outcomes(const Load* load) {
  printf("\n%-32s %8s %8s %8s\n", "request", "answered", "refused", "wrong");
  int totals[NUM_OUTCOMES];
  for (int i = 0; i < load->sent->num; ++i) {
    if (!is_first_of_kind(load->sent, i)) continue;
    const char* kind = load->sent->requests[i].kind;
    sum(load, kind, totals);
    print_row(kind, totals);
  }
  sum(load, NULL, totals);
  print_row("all", totals);
}

static double seconds_now(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return now.tv_sec + 1e-9 * now.tv_nsec;
}

int main(int argc, char** argv) {
  if (argc != 7) die("usage: soak SAVED_MODEL REQUESTS THREADS COUNT WARM_UP MAX_GROWTH");
  int num_threads = atoi(argv[3]), count = atoi(argv[4]), num_warm_up = atoi(argv[5]);
  double max_growth = atof(argv[6]);
  report_memory("at the start");
  const char* at = read_file(argv[2]);
  Model model = load_model(argv[1], &at);
  Requests good = take_requests(&at), damaged = take_requests(&at);
  report_memory("with the model loaded");

  Load warm_up = {.model = &model, .sent = &good, .count = num_warm_up};
  run(&warm_up, num_threads);
  double before = report_memory("after the warm-up");

  double start = seconds_now();
  Load main_load = {.model = &model, .sent = &good, .count = count, .reports_memory = true};
  run(&main_load, num_threads);
  double seconds = seconds_now() - start;
  double peak = fmax(main_load.peak_megabytes, report_memory("after all requests"));

  Load damage = {.model = &model, .sent = &damaged, .in_between = &good, .count = damaged.num};
  run(&damage, num_threads);
  peak = fmax(peak, report_memory("after the damaged requests"));

  printf("\n%d requests from %d threads in %.1f s: %.1f a second\n", count, num_threads, seconds,
         count / seconds);
  print_outcomes(&main_load);
  print_outcomes(&damage);
  double growth = peak - before;
  printf("\nresident memory grew by %.1f MB after the warm-up; %g MB are allowed\n", growth,
         max_growth);
  bool is_right = !num_wrong(&warm_up) && !num_wrong(&main_load) && !num_wrong(&damage);
  return is_right && growth <= max_growth ? 0 : 1;
}
