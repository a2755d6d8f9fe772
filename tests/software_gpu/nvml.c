// NVML of two cards in the order of their buses, which is not CUDA's, for NVML's real Python bindings. The second takes
// more power, and is too hot.
#include <stdio.h>
#include <unistd.h>

enum { INVALID_ARGUMENT = 2, NOT_SUPPORTED = 3, NOT_FOUND = 6, INSUFFICIENT_SIZE = 7 };
typedef struct { unsigned milliwatts; unsigned long long reasons; } Card;
typedef struct { unsigned pid; unsigned long long memory; unsigned instances[2]; } Process;
static Card cards[] = {{9000, 0}, {71500, 0x21}};  // 0x21: idle, software thermal slowdown

static int give(unsigned value, unsigned* to) { *to = value; return 0; }

int nvmlInitWithFlags(unsigned flags) { return 0; }
const char* nvmlErrorString(int error) { return error == NOT_SUPPORTED ? "Not Supported" : "another error"; }
int nvmlSystemGetDriverVersion(char* version, unsigned size) { snprintf(version, size, "580.65.06"); return 0; }
int nvmlDeviceGetHandleByPciBusId_v2(const char* id, Card** card)
{
    unsigned bus;
    if (sscanf(id, "0000:%02x:00.0", &bus) != 1 || bus < 1 || bus > 2) return NOT_FOUND;
    *card = &cards[bus - 1];
    return 0;
}
int nvmlDeviceGetEnforcedPowerLimit(Card* card, unsigned* limit) { return give(72000, limit); }
int nvmlDeviceGetPowerManagementDefaultLimit(Card* card, unsigned* limit) { return give(75000, limit); }
int nvmlDeviceGetPersistenceMode(Card* card, unsigned* mode) { return give(1, mode); }
int nvmlDeviceGetEccMode(Card* card, unsigned* now, unsigned* next) { give(0, next); return give(1, now); }
int nvmlDeviceGetMigMode(Card* card, unsigned* now, unsigned* next) { return NOT_SUPPORTED; }
int nvmlDeviceGetClockInfo(Card* card, int clock, unsigned* mhz)
{
    return clock == 1 ? give(1755, mhz) : clock == 2 ? give(6251, mhz) : INVALID_ARGUMENT;  // SM, memory
}
int nvmlDeviceGetTemperature(Card* card, int sensor, unsigned* degrees)
{
    return sensor ? INVALID_ARGUMENT : give(91, degrees);
}
int nvmlDeviceGetPowerUsage(Card* card, unsigned* milliwatts) { return give(card->milliwatts, milliwatts); }
int nvmlDeviceGetTotalEnergyConsumption(Card* card, unsigned long long* millijoules)
{
    static unsigned long long total;
    *millijoules = total += card->milliwatts;
    return 0;
}
int nvmlDeviceGetCurrentClocksThrottleReasons(Card* card, unsigned long long* reasons)
{
    *reasons = card->reasons;
    return 0;
}
int nvmlDeviceGetComputeRunningProcesses_v3(Card* card, unsigned* number, Process* processes)
{
    if (*number < 2) return give(2, number), INSUFFICIENT_SIZE;
    processes[0].pid = getpid(), processes[1].pid = 1;
    return give(2, number);
}
